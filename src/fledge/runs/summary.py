"""List the runs of a folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fledge.checkpoint import store
from fledge.core.config import Layer
from fledge.core.errors import UserError
from fledge.core.files import folder_bytes
from fledge.core.progress import notice
from fledge.model.flops import parameter_count
from fledge.runs.names import JOURNAL
from fledge.runs.run_folder import RunFolder, list_runs
from fledge.runs.status import FINISHED, best_result, last_saved_step, logged_metrics, run_state, stopped_early
from fledge.tracking.sinks.csv import MetricsTable


@dataclass(frozen=True)
class RunSummary:
    run: str  # a trial of a sweep: SWEEP/trial-0001
    state: str  # running, finished, interrupted, failed, killed or imported
    stopped_early: str | None  # where and why a finished run ended before its last step
    parameters: int
    step: int  # the last one that was logged
    saved_step: int  # the last one that training can continue from
    steps: int
    best_step: int | None  # of the checkpoint with the lowest validation loss
    val_loss: float | None  # of that checkpoint
    bits_per_byte: float | None
    whole_split: bool  # False: measured on a sample of the validation split
    reward: float | None  # of held-out answers, where an alignment run rewards them
    method: str  # pretrain, sft, reward, dpo, ppo, grpo or reinforce
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


def trained_on(run: RunFolder, config: Layer) -> str:
    """The text, or the data of an alignment run."""
    if (align := config.get("align")) is not None:
        return ", ".join(align["data"])
    return str(run.metadata().get("text", ""))


def summarize_run(run: RunFolder, name: str = "", metrics: MetricsTable | None = None) -> RunSummary:
    """`name`: how the run is listed; its own if it is empty. metrics: where they are known already."""
    config, saved = run.config(), store.complete_checkpoints(run.checkpoints)
    saved_step = last_saved_step(run, saved)
    steps = run.last_step(config)
    state = run_state(run, saved_step, steps, saved, config)
    metrics = logged_metrics(run) if metrics is None else metrics
    return RunSummary(
        run=name or run.name,
        state=state,
        stopped_early=stopped_early(run, saved, config) if state == FINISHED else None,
        parameters=parameter_count(run.model_config(config)),
        step=metrics.last_step,
        saved_step=saved_step,
        steps=steps,
        **vars(best_result(run, metrics, saved)),
        method=str(run.metadata().get("method", "pretrain")),
        checkpoints=[checkpoint.step for checkpoint in saved],
        bytes=folder_bytes(run.folder),
        text=trained_on(run, config),
        started=run.metadata_value("started"),
    )
