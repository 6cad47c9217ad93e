"""The state of a run and its best validation loss, read from its files."""

import contextlib
import json
import math
from collections import deque
from dataclasses import dataclass

from fledge.checkpoint import store
from fledge.core.errors import UserError
from fledge.runs.run_folder import RunFolder
from fledge.tracking.sinks.base import complete_lines
from fledge.tracking.sinks.csv import STEP, MetricsTable, read_metrics
from fledge.tracking.sinks.jsonl import EVENTS

RUNNING, FINISHED, IMPORTED = "running", "finished", "imported"
INTERRUPTED, FAILED, KILLED = "interrupted", "failed", "killed"  # ended by a signal, by an error, or killed


@dataclass(frozen=True)
class BestResult:
    """The step and validation loss of the best checkpoint; None: not known."""

    best_step: int | None  # None: no checkpoint has been evaluated
    val_loss: float | None
    bits_per_byte: float | None
    whole_split: bool  # False: measured on a sample of the validation split


def logged_metrics(run: RunFolder) -> MetricsTable:
    """Those of metrics.csv; none where no step has been logged."""
    with contextlib.suppress(UserError):
        return read_metrics(run.folder)
    return MetricsTable({STEP: []})


def best_result(run: RunFolder) -> BestResult:
    best = store.best_of(store.complete_checkpoints(run.checkpoints))
    if best is None:
        return BestResult(None, None, None, False)
    metrics = logged_metrics(run)
    if best.step in metrics["val_best/step"]:
        row = metrics["val_best/step"].index(best.step)
        loss, bits = (_known(metrics[f"val_best/{name}"][row]) for name in ("loss", "bits_per_byte"))
        return BestResult(best.step, loss, bits, True)
    if best.step not in metrics[STEP]:
        return BestResult(best.step, best.val_loss, None, False)
    row = metrics[STEP].index(best.step)
    return BestResult(
        best.step, best.val_loss, _known(metrics["val/bits_per_byte"][row]), metrics["val/fraction"][row] == 1
    )


def last_saved_step(run: RunFolder) -> int:
    """The last one that training can continue from."""
    found = store.complete_checkpoints(run.checkpoints)
    return max((checkpoint.step for checkpoint in found if not checkpoint.weights_only), default=0)


def run_state(run: RunFolder, step: int, steps: int) -> str:
    """`step`: the last that training can continue from."""
    if run.is_locked():
        return RUNNING
    if "imported" in run.metadata():
        return IMPORTED
    if step >= steps:
        return FINISHED
    event = _last_event(run)
    if event.get("event") != "Ended":
        return KILLED
    return FAILED if event.get("reason") == FAILED else INTERRUPTED


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _last_event(run: RunFolder) -> dict[str, object]:
    with contextlib.suppress(OSError, ValueError, IndexError):
        event = json.loads(deque(complete_lines(run.folder / EVENTS), 1)[0])
        if isinstance(event, dict):
            return event
    return {}
