"""The result of `train` and `resume`."""

from dataclasses import dataclass
from pathlib import Path

from fledge.core.errors import UserError
from fledge.runs.advice import Advice, advise
from fledge.runs.run_folder import RunFolder, open_run
from fledge.runs.status import best_result, last_saved_step, stopped_early
from fledge.tracking.sinks.csv import read_metrics
from fledge.tracking.sinks.jsonl import read_events


@dataclass(frozen=True)
class TrainResult:
    run: str
    folder: str
    step: int  # of the last update
    best_step: int | None  # of the checkpoint with the lowest validation loss, which `fledge generate` uses
    val_loss: float | None  # of that checkpoint
    bits_per_byte: float | None
    whole_split: bool  # False: measured on a sample of the validation split
    reward: float | None  # of held-out answers, where an alignment run rewards them
    method: str
    stopped_early: str | None  # where and why the run ended before its last step
    advice: list[Advice]


def train_result(run: RunFolder, step: int) -> TrainResult:
    method = str(run.metadata().get("method", "pretrain"))
    found, early = vars(best_result(run)), stopped_early(run)
    return TrainResult(run.name, str(run.folder), step, **found, method=method, stopped_early=early, advice=advise(run))


def saved_result(name: str, runs: Path) -> TrainResult:
    """The result of a run that other processes have trained, from its checkpoints."""
    run = open_run(name, runs, verify=False)
    return train_result(run, last_saved_step(run))


def is_unstarted(run: RunFolder) -> bool:
    """Whether there is nothing to keep: no step, no checkpoint and no anomaly."""
    if any(event["event"] == "Anomaly" for event in read_events(run.folder)):
        return False
    try:
        last_step = read_metrics(run.folder).last_step
    except UserError:
        last_step = 0
    return not last_saved_step(run) and not last_step
