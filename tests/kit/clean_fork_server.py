"""The fork server of Python keeps the environment, the folder, the blocked signals and the imports of the moment when
it starts, for every process that is forked from it later. Whichever test first needs it, they must be the same.
"""

import multiprocessing.forkserver
import os
import signal
from pathlib import Path

PRELOADED = (
    "fledge.cli.main",
    *(f"fledge.cli.commands.{name}" for name in ("train", "resume", "align", "serve", "sweep", "watch")),
    *(f"fledge.recipes.{name}" for name in ("train", "resume", "align", "evaluate")),
    *("fledge.server.start", "torch._dynamo", "torch._inductor", "torch.onnx"),
    *("torch.distributed.fsdp", "torch.distributed.tensor", "fault_harness"),
)


def install() -> None:
    """From now on, the fork server starts as it would now."""
    server = multiprocessing.forkserver._forkserver  # type: ignore[attr-defined]
    start, environment, folder = server.ensure_running, dict(os.environ), Path.cwd()

    def ensure_running() -> None:
        changed, elsewhere = dict(os.environ), Path.cwd()
        server.set_forkserver_preload(list(PRELOADED))
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        blocked = signal.pthread_sigmask(signal.SIG_SETMASK, ())
        try:
            start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            os.environ.clear()
            os.environ.update(changed)
            os.chdir(elsewhere)

    server.ensure_running = ensure_running
