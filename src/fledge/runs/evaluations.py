"""evaluations.jsonl: what `fledge eval` found, a line for each evaluation; the newest stands last.

    {"time": 1795762160.1, "kind": "split", "step": 904, "split": "val", "loss": 3.46, …}

kind: split, texts, tasks or alignment.
"""

import contextlib
import json
import time
from collections.abc import Mapping
from typing import Any

from fledge.core.files import to_json
from fledge.core.progress import notice
from fledge.runs.run_folder import RunFolder
from fledge.tracking.sinks.base import complete_lines

EVALUATIONS = "evaluations.jsonl"


def record_evaluation(run: RunFolder, kind: str, step: int, found: Mapping[str, Any]) -> None:
    """Add a line. A run that cannot be written, such as one on a read-only disk, is evaluated all the same."""
    line = to_json({"time": round(time.time(), 3), "kind": kind, "step": step, **found})
    try:
        with (run.folder / EVALUATIONS).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        notice(f"warning: the evaluation is not kept in '{run.folder / EVALUATIONS}': {error.strerror}")


def read_evaluations(run: RunFolder) -> list[dict[str, Any]]:
    """Oldest first; damaged lines are left out."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in complete_lines(run.folder / EVALUATIONS):
            with contextlib.suppress(ValueError, RecursionError):
                if _is_complete(each := json.loads(line)):
                    found.append(each)
    return found


def _is_complete(each: Any) -> bool:
    """Whether it has what a view relies on."""
    return (
        isinstance(each, dict)
        and isinstance(each.get("step"), int)
        and isinstance(each.get("kind"), str)
        and isinstance(each.get("tasks", []), list)
        and isinstance(each.get("metrics", {}), dict)
    )
