"""The state of a run and its best validation loss, read from its files."""

import contextlib
import json
import math
from collections import deque
from dataclasses import dataclass

from fledge.checkpoint import store
from fledge.core.config import Layer
from fledge.core.errors import UserError
from fledge.runs.run_folder import RunFolder
from fledge.tracking.events import Started, StoppedEarly
from fledge.tracking.run_progress import describe_event
from fledge.tracking.sinks.base import complete_lines
from fledge.tracking.sinks.csv import STEP, MetricsTable, read_metrics
from fledge.tracking.sinks.jsonl import EVENTS, read_events

RUNNING, FINISHED, IMPORTED = "running", "finished", "imported"
INTERRUPTED, FAILED, KILLED = "interrupted", "failed", "killed"  # ended by a signal, by an error, or killed


@dataclass(frozen=True)
class BestResult:
    """The step and validation loss of the best checkpoint; None: not known."""

    best_step: int | None  # None: no checkpoint has been evaluated
    val_loss: float | None
    bits_per_byte: float | None
    whole_split: bool  # False: measured on a sample of the validation split
    reward: float | None = None  # mean reward of held-out answers, where they are rewarded


def logged_metrics(run: RunFolder) -> MetricsTable:
    """Those of metrics.csv; none where no step has been logged."""
    with contextlib.suppress(UserError):
        return read_metrics(run.folder)
    return MetricsTable({STEP: []})


def best_result(
    run: RunFolder, metrics: MetricsTable | None = None, saved: list[store.Checkpoint] | None = None
) -> BestResult:
    """metrics, saved: of the run, where they are known already."""
    best = store.best_of(store.complete_checkpoints(run.checkpoints) if saved is None else saved)
    if best is None:
        return BestResult(None, None, None, False)
    metrics = logged_metrics(run) if metrics is None else metrics
    if best.step in metrics["val_best/step"]:
        row = metrics["val_best/step"].index(best.step)
        loss, bits = (_known(metrics[f"val_best/{name}"][row]) for name in ("loss", "bits_per_byte"))
        return BestResult(best.step, loss, bits, True)
    if best.step not in metrics[STEP]:
        return BestResult(best.step, best.val_loss, None, False)
    row = metrics[STEP].index(best.step)
    reward, fraction = _known(metrics["val/reward"][row]), _known(metrics["val/fraction"][row])
    loss = best.val_loss if reward is None else _known(metrics["val/loss"][row])  # a reward may stand for the loss
    return BestResult(best.step, loss, _known(metrics["val/bits_per_byte"][row]), fraction in (None, 1), reward)


def last_saved_step(run: RunFolder, saved: list[store.Checkpoint] | None = None) -> int:
    """The last one that training can continue from. saved: the run's checkpoints, where they are known already."""
    found = store.complete_checkpoints(run.checkpoints) if saved is None else saved
    return max((checkpoint.step for checkpoint in found if not checkpoint.weights_only), default=0)


def stopped_early(
    run: RunFolder, saved: list[store.Checkpoint] | None = None, config: Layer | None = None
) -> str | None:
    """How the run ended before its last planned step; None: it did not. saved, config: of the run, if known already."""
    if (run.config() if config is None else config).get("train", {}).get("patience") is None:
        return None
    event = next(iter(deque(read_events(run.folder, Started, StoppedEarly), 1)), {})
    if event.get("event") != StoppedEarly.__name__:  # none, or training went on
        return None
    found = store.complete_checkpoints(run.checkpoints) if saved is None else saved
    if not any(each.step == event["step"] and not each.pending_hooks for each in found):
        return None  # it was stopped or killed before it had saved the last step
    return describe_event(StoppedEarly(**{name: event[name] for name in StoppedEarly.__match_args__ if name in event}))


def run_state(
    run: RunFolder, step: int, steps: int, saved: list[store.Checkpoint] | None = None, config: Layer | None = None
) -> str:
    """`step`: the last that training can continue from. saved, config: of the run, if known already."""
    if run.is_locked():
        return RUNNING
    if "imported" in run.metadata():
        return IMPORTED
    if step >= steps or stopped_early(run, saved, config):
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
