"""Names of runs."""

import re
import shlex
from pathlib import Path

from fledge.core.errors import UserError
from fledge.core.formatting import short_path

DEFAULT_RUNS = Path("runs")
JOURNAL = "sweep.journal"  # in the folder of a sweep, beside the folders of its trials
MAX_NAME_BYTES = 200  # file systems take 255, and folders beside it have longer names


def check_run_name(name: str) -> None:
    odd = name.startswith((".", "-")) or any(c in "/\\@" for c in name) or not name.isprintable()
    if not name or odd or len(name.encode()) > MAX_NAME_BYTES:
        raise UserError(f"a run cannot be named '{name}'", "use letters, digits, '-' and '_'")


def run_name_from(source: str) -> str:
    """A name for a run, from the name or path of a preset, a settings file or a model; RUN/config.toml gives RUN."""
    path = Path(source)
    stem = path.absolute().parent.name if path.name == "config.toml" else path.stem
    return re.sub(r"[^\w-]", "-", stem).strip("-")[:100] or "run"


def path_word(folder: Path) -> str:
    """The folder of a run as a word of a command in this directory."""
    return shlex.quote(short_path(folder))


def run_word(folder: Path) -> str:
    """What names this run in a command without --runs: its name where it lies in ./runs, else its path."""
    if folder.resolve().parent == DEFAULT_RUNS.resolve():
        return shlex.quote(folder.name)
    path = short_path(folder)
    return shlex.quote(path if "/" in path else f"./{path}")
