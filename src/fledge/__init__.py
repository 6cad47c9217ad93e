"""fledge: raise a GPT from scratch: your text, your machine, every step visible.

From Python: `fledge.train`, `fledge.load`, `fledge.prepare`, … are described in `fledge.api`, and are imported when
they are first used, so that `import fledge` is fast.
"""

from typing import TYPE_CHECKING, Any

from fledge.core.threads import wait_briefly

if TYPE_CHECKING:
    from fledge.api import LoadedRun, align, list_runs, load, prepare, resume, train

wait_briefly()  # before anything imports torch

__version__ = "0.1.0"
__all__ = ["LoadedRun", "__version__", "align", "list_runs", "load", "prepare", "resume", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("fledge.api"), name)
    raise AttributeError(f"module 'fledge' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
