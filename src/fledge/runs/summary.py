"""List the runs of a folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fledge.checkpoint import store
from fledge.core.errors import UserError
from fledge.core.files import folder_bytes
from fledge.core.progress import notice
from fledge.model.flops import parameter_count
from fledge.runs.names import JOURNAL
from fledge.runs.run_folder import RunFolder, list_runs
from fledge.runs.status import best_result, last_saved_step, logged_metrics, run_state


@dataclass(frozen=True)
class RunSummary:
    run: str  # a trial of a sweep: SWEEP/trial-0001
    state: str  # running, finished, interrupted, failed, killed or imported
    parameters: int
    step: int  # the last one that was logged
    saved_step: int  # the last one that training can continue from
    steps: int
    best_step: int | None  # of the checkpoint with the lowest validation loss
    val_loss: float | None  # of that checkpoint
    bits_per_byte: float | None
    whole_split: bool  # False: measured on a sample of the validation split
    checkpoints: list[int]  # steps of the complete ones
    bytes: int  # on the disk
    text: str
    started: str


def summarize_runs(runs: Path) -> list[RunSummary]:
    """The runs, oldest first, and the trials of sweeps. A damaged run is skipped with a warning."""
    summaries = []
    for name, run in runs_and_trials(runs):
        try:
            summaries.append(summarize_run(run, name))
        except UserError as error:
            notice(f"warning: '{name}' cannot be read: {error.message}")
    return summaries


def runs_and_trials(runs: Path) -> Iterator[tuple[str, RunFolder]]:
    for run in list_runs(runs):
        yield run.name, run
    for folder in sorted(path.parent for path in runs.glob(f"*/{JOURNAL}")):
        for trial in list_runs(folder):
            yield f"{folder.name}/{trial.name}", trial


def summarize_run(run: RunFolder, name: str = "") -> RunSummary:
    """`name`: how the run is listed; its own if it is empty."""
    steps, saved_step = run.planned_steps(), last_saved_step(run)
    return RunSummary(
        run=name or run.name,
        state=run_state(run, saved_step, steps),
        parameters=parameter_count(run.model_config()),
        step=logged_metrics(run).last_step,
        saved_step=saved_step,
        steps=steps,
        **vars(best_result(run)),
        checkpoints=[checkpoint.step for checkpoint in store.complete_checkpoints(run.checkpoints)],
        bytes=folder_bytes(run.folder),
        text=str(run.metadata().get("text", "")),
        started=run.metadata_value("started"),
    )
