"""The loop of a sweep: ask for a trial → train it → tell its loss."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fledge.core.config import to_toml
from fledge.core.errors import UserError
from fledge.core.files import write_atomic
from fledge.core.formatting import printable
from fledge.core.jobs import DONE, STOPPED, Job, failure_reason
from fledge.core.progress import notice
from fledge.evaluation.validation import BEST
from fledge.settings.layers import without_effect
from fledge.sweep.study import FAILED, FINISHED, UNFINISHED, Study, Trial
from fledge.sweep.workers import TrialJob, TrialRunner
from fledge.tracking.sinks.csv import read_metrics
from fledge.training.config import Settings

Train = Callable[[Path, str], object]  # (folder, name): train name.toml as the run `name`, or resume it; picklable


@dataclass(frozen=True)
class Search:
    """Runs the trials of a study in its folder, which gets trial-0001.toml, .log and a run folder for each."""

    folder: Path
    study: Study
    trials: int
    train: Train

    def run(self, runner: TrialRunner) -> None:
        """Finish the trials that were interrupted, then start new ones until there are `trials` of them."""
        pending = {trial.name: trial for trial in self.study.trials(UNFINISHED)}
        if self.study.trials():
            counts = {state: len(self.study.trials(state)) for state in (FINISHED, FAILED, UNFINISHED)}
            known = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
            notice(f"continuing '{self.folder.name}': {known}")
        with closing(runner(self._jobs(pending))) as ends:
            for job, status in ends:
                self._record(pending.pop(job.name), job, status)

    def _jobs(self, pending: dict[str, Trial]) -> Iterator[TrialJob]:
        """The runner asks for a job when a worker is free: the settings are drawn then, from all that is known."""
        for trial in list(pending.values()):
            yield self._job(trial, self.study.plan.settings(trial.settings))
        while len(self.study.trials()) < self.trials:
            trial = self.study.ask()
            notice(f"{trial.name} of {self.trials}: {describe_settings(trial.settings)}")
            try:
                job = self._job(trial, self.study.plan.settings(trial.settings))
            except UserError as error:
                self._fail(trial, error.message)
                continue
            pending[trial.name] = trial
            yield job

    def _job(self, trial: Trial, settings: Settings) -> TrialJob:
        folder = self.folder.absolute()
        write_atomic(folder / f"{trial.name}.toml", to_toml(settings, omit=without_effect(settings)))
        work = partial(self.train, folder, trial.name)
        job = Job(work, folder / f"{trial.name}.log", preload=(self.train.__module__,))
        return TrialJob(trial.name, job, settings.train.device in ("auto", "cuda"))

    def _record(self, trial: Trial, job: TrialJob, status: int) -> None:
        if status in STOPPED:
            return  # it has saved a checkpoint, and is resumed next time
        if status != DONE:
            killed = f"killed by signal {status - 128}"
            self._fail(trial, failure_reason(job.job.log) if status < 128 else killed)
            return
        metric = self.study.plan.config.metric
        loss, step = best_value(self.folder / trial.name, metric)
        if loss is None:
            self._fail(trial, f"it has no {metric}: its text has no validation split")
            return
        self.study.finish(trial, loss, step)
        notice(f"{trial.name}: {metric} {loss:.4f}")

    def _fail(self, trial: Trial, reason: str) -> None:
        self.study.fail(trial, reason)
        notice(f"{trial.name} failed: {printable(reason)}")


def best_value(run: Path, metric: str) -> tuple[float | None, int]:
    """The lowest value of the metric in a run, on the whole split where it was measured; and the last logged step."""
    metrics = read_metrics(run)
    whole = metrics.measured(metric.replace("val/", f"{BEST}/", 1))
    return min(whole or metrics.measured(metric), default=None), metrics.last_step


def describe_settings(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {format_value(value)}" for name, value in settings.items())


def format_value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
