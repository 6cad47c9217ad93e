"""List the runs of a folder."""

from dataclasses import dataclass
from pathlib import Path

from fledge.checkpoint import store
from fledge.core.errors import UserError
from fledge.core.progress import notice
from fledge.model.flops import parameter_count
from fledge.runs.run_folder import RunFolder, list_runs
from fledge.settings.pipeline import validated
from fledge.tracking.sinks.csv import read_metrics


@dataclass(frozen=True)
class RunSummary:
    run: str
    parameters: int
    step: int  # the last one that was logged
    steps: int
    best_val_loss: float | None
    checkpoints: list[int]  # steps of the complete ones
    started: str


def summarize_runs(runs: Path) -> list[RunSummary]:
    """The runs, oldest first. A damaged run is skipped with a warning."""
    summaries = []
    for run in list_runs(runs):
        try:
            summaries.append(summarize_run(run))
        except UserError as error:
            notice(f"warning: '{run.name}' cannot be read: {error.message}")
    return summaries


def summarize_run(run: RunFolder) -> RunSummary:
    checkpoints = store.complete_checkpoints(run.checkpoints)
    best = store.best_of(checkpoints)
    try:
        step = read_metrics(run.folder).last_step
    except UserError:  # no step was logged yet
        step = 0
    return RunSummary(
        run=run.name,
        parameters=parameter_count(run.model_config()),
        step=step,
        steps=validated(run.config()).train.steps,
        best_val_loss=best.val_loss if best else None,
        checkpoints=[checkpoint.step for checkpoint in checkpoints],
        started=run.metadata_value("started"),
    )
