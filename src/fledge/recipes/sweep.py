"""fledge sweep: many trainings of which each tries other settings, the next chosen by what came of those before.

    RUNS/NAME/sweep.json                      what was tried, and what came of it (trials.py)
              trial-0007.toml, .log, /        its settings, what it said, its run folder

Which settings may be tried, and which come next, stands in space.py; who trains, in crews.py.
"""

import argparse
import math
import shlex
import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fledge.cli.output import report
from fledge.cluster.sweep import ray_workers
from fledge.core.config import Layer, build, read_toml, refuse_odd_counts, setting, to_toml
from fledge.core.errors import Interrupted, UserError
from fledge.core.files import file_lock, new_folders, user_path, write_atomic
from fledge.core.formatting import printable, short_path
from fledge.core.jobs import DONE, STOPPED, failure_reason
from fledge.core.progress import notice
from fledge.core.signals import signal_number
from fledge.recipes.train import check_name, run_name
from fledge.runs import run_folder
from fledge.settings.pipeline import merge_layers, read_preset, validated
from fledge.sweep import workers
from fledge.sweep.space import RangeDimension, Space, read_space, refuse_missing_sampler, suggest
from fledge.sweep.study import BEGUN, FAILED, FINISHED, Study, Trial
from fledge.sweep.workers import TrialJob, TrialRunner
from fledge.tracking.sinks import read_metrics
from fledge.training.config import Settings

DRAWS = 10  # of which one should be possible
LONGER = 4  # times the steps of a trial, for the best
WIDEST = 60  # characters of what a failed trial said


@dataclass(frozen=True)
class SweepConfig:
    preset: str | None = setting(None, "what is to be trained: a preset, or a FILE.toml")
    metric: Literal["val_loss", "val_bits_per_byte"] = setting(
        "val_loss", "what is to be small; bits per byte where tokenizers differ"
    )
    trials: int = setting(20, "how many trainings")
    seed: int = setting(1, "another seed, other trials")

    def __post_init__(self) -> None:
        refuse_odd_counts(self, "sweep", ["trials"])
        if self.preset is None:
            raise UserError("[sweep] does not say what is to be trained", 'write preset = "demo", or a FILE.toml')


@dataclass(frozen=True)
class SweepFile:
    sweep: SweepConfig


@dataclass(frozen=True)
class SweepPlan:
    """A sweep's file, read and checked."""

    config: SweepConfig
    space: Space
    fixed: Layer

    def settings(self, chosen: dict[str, Any]) -> Settings:
        return validated(self.fixed, as_layer(chosen))

    def about(self) -> dict[str, Any]:
        """What makes it this sweep; how many trials there are does not."""
        rest = {"metric": self.config.metric, "seed": self.config.seed}
        return {**self.fixed, "space": {name: choice.plain() for name, choice in self.space.items()}, "sweep": rest}


def run(args: argparse.Namespace) -> None:
    refuse_missing_sampler()
    plan = read_plan(user_path(args.file))
    trials, name = args.trials or plan.config.trials, run_name(args.file) if args.run is None else args.run
    check_name(name)
    crew = crew_of(args)
    folder = args.runs / name
    refuse_foreign(folder)
    with new_folders(folder), file_lock(folder / ".lock", UserError(f"'{name}' is at work already", "wait for it")):
        record = Study(folder, plan.about())
        try:
            Sweep(folder, plan, record, trials).go(crew)
        except KeyboardInterrupt as stop:
            raise Interrupted(signal_number(stop), again(args)) from None
        if record.in_state(BEGUN):
            raise Interrupted(signal.SIGTERM, again(args))
        outcome = outcome_of(folder, plan, record)
    report(outcome, as_json=args.json, text=in_words(outcome, list(plan.space)))


def again(args: argparse.Namespace) -> str:
    return f"fledge sweep {shlex.quote(args.file)}, with the same options"


def crew_of(args: argparse.Namespace) -> TrialRunner:
    if args.engine == "ray":
        return ray_workers(args.address, args.workers)
    if args.address:
        raise UserError("--address is a Ray cluster's", "add --engine ray, or leave it out")
    return workers.local_workers(args.workers)


def refuse_foreign(folder: Path) -> None:
    if (folder / run_folder.CONFIG).exists():
        raise UserError(f"'{folder.name}' is a run, and no sweep", "choose another --run NAME")


# The file


def read_plan(path: Path) -> SweepPlan:
    sections = read_toml(path)
    for name in ("sweep", "space"):
        if name not in sections:
            raise UserError(f"'{path}' has no [{name}]: it is no sweep", "see: fledge sweep --help")
    config = build(SweepFile, {"sweep": sections.pop("sweep")}).sweep
    space = read_space(sections.pop("space"))
    assert config.preset is not None
    preset, _ = read_preset(config.preset)
    sections.pop("about", None)
    for name in space:
        section, _, key = name.partition(".")
        if key in sections.get(section, {}):
            raise UserError(f"{name} is fixed, and in [space], too", "leave it out of one of them")
    plan = SweepPlan(config, space, merge_layers(preset, sections))
    refuse_hopeless(plan)
    return plan


def refuse_hopeless(plan: SweepPlan) -> None:
    """What is wrong without any trial. Settings that are wrong only together are a trial that fails."""
    fixed = validated(plan.fixed)
    if fixed.train.eval_every == 0 and "train.eval_every" not in plan.space:
        raise UserError("train.eval_every = 0: trials could not be compared", "leave it out")
    refusals = []
    for seed in range(DRAWS):
        try:
            plan.settings(suggest(plan.space, seed, []))
            return
        except UserError as error:
            refusals.append(error)
    raise refusals[0]


def as_layer(chosen: dict[str, Any]) -> dict[str, dict[str, Any]]:
    layer: dict[str, dict[str, Any]] = {}
    for name, value in chosen.items():
        section, _, key = name.partition(".")
        layer.setdefault(section, {})[key] = value
    return layer


# The work


@dataclass(frozen=True)
class Sweep:
    folder: Path
    plan: SweepPlan
    record: Study
    trials: int

    def go(self, crew: TrialRunner) -> None:
        begun = {trial.name: trial for trial in self.record.in_state(BEGUN)}
        if self.record.trials:
            notice(f"going on with '{self.folder.name}': {self._so_far()}")
        with closing(crew(self._jobs(begun))) as ends:
            for job, code in ends:
                self._ended(begun.pop(job.name), job, code)

    def _jobs(self, begun: dict[str, Trial]) -> Iterator[TrialJob]:
        """First those that were left, then new ones. Asked for when there is room, so that all that is known counts."""
        for trial in list(begun.values()):
            yield self._job(trial, self.plan.settings(trial.chosen))
        while len(self.record.trials) < self.trials:
            chosen = suggest(self.plan.space, self.plan.config.seed, self.record.trials)
            trial = self.record.begin(chosen)
            notice(f"{trial.name} of {self.trials}: {settings_in_words(chosen)}")
            try:
                job = self._job(trial, self.plan.settings(chosen))
            except UserError as error:
                self._failed(trial, error.message)
                continue
            begun[trial.name] = trial
            yield job

    def _job(self, trial: Trial, settings: Settings) -> TrialJob:
        write_atomic(self.folder / f"{trial.name}.toml", to_toml(settings))
        return workers.job_of(self.folder, trial.name, settings.train.device)

    def _ended(self, trial: Trial, job: TrialJob, code: int) -> None:
        if code in STOPPED:
            return  # it has saved, and goes on next time
        if code != DONE:
            self._failed(trial, failure_reason(job.job.log) if code < STOPPED[0] else f"killed by signal {code - 128}")
            return
        loss, step = best_of(self.folder / trial.name, self.plan.config.metric)
        if loss is None:
            self._failed(trial, f"it has no {self.plan.config.metric}: its text holds nothing out")
            return
        self.record.end(trial, state=FINISHED, loss=loss, step=step)
        notice(f"{trial.name}: {self.plan.config.metric} {loss:.4f}")

    def _failed(self, trial: Trial, why: str) -> None:
        self.record.end(trial, state=FAILED, why=why)
        notice(f"{trial.name} failed: {printable(why)}")

    def _so_far(self) -> str:
        counts = {state: len(self.record.in_state(state)) for state in (FINISHED, FAILED, BEGUN)}
        return ", ".join(f"{count} {state}" for state, count in counts.items() if count)


def best_of(run: Path, metric: str) -> tuple[float | None, int]:
    """The least that a trial came to, and how far it went."""
    columns = read_metrics(run)
    losses = [loss for loss in columns[metric] if math.isfinite(loss)]
    return min(losses, default=None), int(max(columns["step"], default=0))


# What comes of it


def outcome_of(folder: Path, plan: SweepPlan, record: Study) -> dict[str, Any]:
    best = record.best()
    return {
        "sweep": folder.name,
        "folder": str(folder),
        "metric": plan.config.metric,
        "trials": [{"trial": trial.name, **asdict(trial)} for trial in record.ranked()],
        "best": best and best.name,
        "next": best and longer_run(folder, best, plan.settings(best.chosen)),
        "picture": best and str(picture(folder, plan, record)),
    }


def longer_run(folder: Path, best: Trial, settings: Settings) -> str:
    """The command that trains the best for longer."""
    train = settings.train
    further = f"--train.steps {LONGER * train.steps}"
    if train.epochs is not None:
        further = f"--train.epochs {LONGER * train.epochs:g}"
    file = shlex.quote(short_path(folder / f"{best.name}.toml"))
    runs = "" if folder.parent == Path("runs") else f" --runs {shlex.quote(short_path(folder.parent))}"
    return f"fledge train {file} --run {shlex.quote(folder.name)}-best {further}{runs}"


def picture(folder: Path, plan: SweepPlan, record: Study) -> Path:
    from fledge.tracking.plots import scatter  # a second that an early refusal need not wait for

    finished = record.in_state(FINISHED)
    tried = {name: [trial.chosen[name] for trial in finished] for name in plan.space}
    logarithmic = [name for name, choice in plan.space.items() if isinstance(choice, RangeDimension) and choice.log]
    return scatter(tried, [trial.loss or 0.0 for trial in finished], logarithmic, plan.config.metric, folder)


def in_words(outcome: dict[str, Any], names: list[str]) -> str:
    rows = [["trial", outcome["metric"], "step", "state", *names]]
    for trial in outcome["trials"]:
        loss = "-" if trial["loss"] is None else f"{trial['loss']:.4f}"
        state = f"failed: {printable(trial['why'])[:WIDEST]}" if trial["why"] else trial["state"]
        rows.append([trial["trial"], loss, f"{trial['step']:,}", state, *map(in_short, trial["chosen"].values())])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if outcome["best"] is None:
        return "\n".join([*lines, "", f"no trial came to an end; what each said: {outcome['folder']}/trial-*.log"])
    return "\n".join([*lines, "", f"picture: {short_path(Path(outcome['picture']))}", f"next: {outcome['next']}"])


def settings_in_words(chosen: dict[str, Any]) -> str:
    return ", ".join(f"{name} {in_short(value)}" for name, value in chosen.items())


def in_short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
