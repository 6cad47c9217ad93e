"""Names of runs."""

import re
from pathlib import Path

from fledge.core.errors import UserError

MAX_NAME_BYTES = 200  # file systems take 255, and folders beside it have longer names


def check_run_name(name: str) -> None:
    odd = name.startswith((".", "-")) or any(c in "/\\@" for c in name) or not name.isprintable()
    if not name or odd or len(name.encode()) > MAX_NAME_BYTES:
        raise UserError(f"a run cannot be named '{name}'", "use letters, digits, '-' and '_'")


def run_name_from(source: str) -> str:
    """A name for a run, from the name or path of a preset, a settings file or a model."""
    return re.sub(r"[^\w-]", "-", Path(source).stem).strip("-")[:100] or "run"
