"""Search for the best settings: many training runs with different settings, each chosen by the results so far.

    RUNS/NAME/sweep.journal                   the settings and the result of every trial (sweep/study.py)
              trial-0007.toml, .log, /        its settings, its output, its run folder

Each event is recorded at once, so the same command continues a sweep that was interrupted or killed.
"""

import contextlib
import shlex
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fledge.checkpoint import store
from fledge.cluster.sweep import ray_workers
from fledge.core.errors import Interrupted, UserError
from fledge.core.files import file_lock, new_folders, user_path
from fledge.core.formatting import short_path
from fledge.core.signals import signal_number
from fledge.recipes.resume import resume
from fledge.recipes.train import train
from fledge.runs.names import check_run_name, run_name_from
from fledge.runs.run_folder import CONFIG, LOCK, RunFolder, find_run
from fledge.runs.status import stopped_early
from fledge.sweep.space import SweepPlan, read_sweep, require_optuna
from fledge.sweep.workers import TrialRunner, local_workers
from fledge.training.config import Settings

if TYPE_CHECKING:
    from fledge.sweep.study import Study, Trial

FINAL_RUN_FACTOR = 4  # times the steps of a trial, for the best settings
LOCK_TIMEOUT = 60.0  # seconds for the trials of a killed sweep to exit
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class SweepResult:
    sweep: str
    folder: str
    metric: str
    trials: "list[Trial]"  # best first
    best: str | None  # the name of a trial
    command: str | None  # trains the best settings for longer
    picture: str | None


def sweep(
    file: str,
    runs: Path = Path("runs"),
    *,
    name: str | None = None,
    trials: int | None = None,
    workers: int = 1,
    engine: Literal["processes", "ray"] = "processes",
    address: str | None = None,
) -> SweepResult:
    """Run, or continue, the sweep that `file` describes, with up to `workers` trials at a time."""
    require_optuna()
    from fledge.sweep.search import Search
    from fledge.sweep.study import UNFINISHED, Study

    plan = read_sweep(user_path(file))
    name = run_name_from(file) if name is None else name
    check_run_name(name)
    runner = trial_runner(engine, address, workers)
    folder = runs / name
    if (folder / CONFIG).exists():
        raise UserError(f"'{name}' is a run, not a sweep", "choose another --run NAME")
    busy = UserError(f"the sweep '{name}' is running already", "wait for it, or choose another --run NAME")
    command = f"fledge sweep {shlex.quote(file)}, with the same options"
    with new_folders(folder), file_lock(folder / LOCK, busy):
        study = Study(folder, plan)
        try:
            Search(folder, study, trials or plan.config.trials, train_trial).run(runner)
        except KeyboardInterrupt as stop:
            raise Interrupted(signal_number(stop), command) from None
        if study.trials(UNFINISHED):
            raise Interrupted(signal.SIGTERM, command)
        return sweep_result(folder, plan, study)


def trial_runner(engine: str, address: str | None, workers: int) -> TrialRunner:
    if engine == "ray":
        return ray_workers(address, workers)
    if address:
        raise UserError("--address is for --engine ray", "add --engine ray, or leave it out")
    return local_workers(workers)


def train_trial(folder: Path, name: str) -> None:
    """Train the settings in `name`.toml as the run `name` of `folder`; a run that exists is resumed if unfinished."""
    run = find_run(name, folder)
    if run is None:
        train(str(folder / f"{name}.toml"), runs=folder, name=name)
        return
    wait_for_lock(run)
    steps = run.last_step()
    saved = store.complete_checkpoints(run.checkpoints)
    if not stopped_early(run, saved) and not any(each.step == steps and not each.pending_hooks for each in saved):
        resume(name, runs=folder)


def wait_for_lock(run: RunFolder) -> None:
    """If a sweep was killed and restarted at once, the process of an earlier attempt may still be ending."""
    end = time.monotonic() + LOCK_TIMEOUT
    while time.monotonic() < end:
        with contextlib.suppress(UserError), run.lock():
            return
        time.sleep(POLL_SECONDS)


def sweep_result(folder: Path, plan: SweepPlan, study: "Study") -> SweepResult:
    ranked = study.ranked()
    best = ranked[0] if ranked and ranked[0].loss is not None else None
    return SweepResult(
        sweep=folder.name,
        folder=str(folder),
        metric=plan.config.metric,
        trials=ranked,
        best=best.name if best else None,
        command=final_run_command(folder, best, plan.settings(best.settings)) if best else None,
        picture=str(draw(folder, plan, ranked)) if best else None,
    )


def final_run_command(folder: Path, best: "Trial", settings: Settings) -> str:
    train = settings.train
    length = f"--train.steps {FINAL_RUN_FACTOR * train.steps}"
    if train.epochs is not None:
        length = f"--train.epochs {FINAL_RUN_FACTOR * train.epochs:g}"
    file = shlex.quote(short_path(folder / f"{best.name}.toml"))
    runs = "" if folder.parent == Path("runs") else f" --runs {shlex.quote(short_path(folder.parent))}"
    return f"fledge train {file} --run {shlex.quote(folder.name)}-best {length}{runs}"


def draw(folder: Path, plan: SweepPlan, ranked: "list[Trial]") -> Path:
    from fledge.tracking.sweep_figure import scatter  # matplotlib takes a second to import

    finished = [trial for trial in ranked if trial.loss is not None]
    tried = {name: [trial.settings[name] for trial in finished] for name in plan.space}
    logarithmic = [name for name, values in plan.space.items() if getattr(values, "log", False)]
    return scatter(tried, [trial.loss or 0.0 for trial in finished], logarithmic, plan.config.metric, folder)
