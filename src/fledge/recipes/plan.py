"""Plan a training run: forecast its cost, choose its size for a budget; afterwards, check the forecast.

settings → statistics of the text → probe of a few seconds → forecast
"""

import itertools
import json
import math
import shlex
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fledge.core import device as machines
from fledge.core.config import MAX_COUNT, Layer, merge
from fledge.core.errors import UserError
from fledge.core.progress import notice
from fledge.core.threads import LoadMeter
from fledge.planning.backtest import Row, compare
from fledge.planning.budget import TimeSearch, check_seconds, sets_shape
from fledge.planning.corpus_stats import MAX_PREPARED_BYTES, read_corpus_stats
from fledge.planning.forecast import Forecast, complete_for_forecast, make_forecast
from fledge.planning.loss_forecast import finished_runs, settings_as_made
from fledge.planning.probe import measure_costs
from fledge.planning.recipe import most_steps
from fledge.planning.sized import sized_for_time
from fledge.runs.run_folder import open_run
from fledge.settings.layers import read_preset
from fledge.settings.pipeline import validated
from fledge.training.config import Settings

PLANNING_SECONDS = 20.0  # until all is measured
PROBE_SHARE = 0.05  # of the time of the run, for measuring
PROBE_SECONDS = 14.0  # where the settings are given


@dataclass(frozen=True)
class PlanResult:
    preset: str
    settings: Settings  # complete: what training would use
    forecast: Forecast
    other_load: float | None  # cores that other programs kept busy while it was measured; None: unknown
    cost: float | None  # in the currency of `price`
    overrides: Layer  # what was chosen and what was given: `train(preset, overrides)` trains what was planned
    command: str  # the same on the command line


@dataclass(frozen=True)
class BacktestResult:
    run: str
    rows: dict[str, Row]
    fitted_runs: list[str]


def plan(
    preset: str,
    overrides: Layer | None = None,
    runs: Path = Path("runs"),
    *,
    seconds: float | None = None,
    begun: float | None = None,
    processes: int = 1,
    price: float | None = None,
    base: Layer | None = None,
) -> PlanResult:
    """Forecast the training of a preset or FILE.toml on this machine.

    overrides: settings that replace those of the preset: section → key → value.
    seconds: for a whole run; vocabulary, size, batch and steps are then chosen to use them well.
    begun: when these seconds began, on the clock time.perf_counter, if the run follows at once: what planning and
      preparing the text took is then subtracted. None: the seconds are those of a new command.
    processes: that will share each batch, which is chosen to be divisible by them; only one is measured.
    price: of one hour of this machine.
    base: settings in place of those of the preset.
    """
    deadline = time.perf_counter() + PLANNING_SECONDS
    overrides = overrides or {}
    if price is not None and not 0 <= price < math.inf:
        raise UserError(f"--price cannot be {price:g}", "it is the price of an hour of this machine, such as 2.5")
    if seconds is not None:
        check_seconds(seconds, f"{seconds / 60:g}")
    if seconds is not None and {"steps", "epochs"} & set(overrides.get("train", {})):
        raise UserError("--minutes sets train.steps, so neither steps nor epochs can be given", "leave one of them out")
    if seconds is not None and {"minutes", "step_limit"} & set(overrides.get("train", {})):
        raise UserError("--minutes sets train.minutes and train.step_limit", "leave them out")
    layer = read_preset(preset)[0] if base is None else base
    settings = validated(layer, overrides)
    machine = machines.choose_machine(settings.train.device, settings.train.dtype, threads=settings.train.threads)
    if seconds is not None:
        overrides = sized_for_time(layer, overrides, seconds)
        settings = validated(layer, overrides)
    corpus = read_corpus_stats(settings, MAX_PREPARED_BYTES if begun is None else math.inf)
    folder, load = existing_parent(runs), LoadMeter()
    if seconds is None:
        settings = complete_for_forecast(settings, corpus, machine)
        costs = measure_costs(settings, machine, folder, PROBE_SECONDS)
    else:
        deadline = min(deadline, time.perf_counter() + PROBE_SHARE * seconds)
        search = TimeSearch(layer, overrides, settings, corpus, machine, seconds, begun, folder, deadline, processes)
        settings, overrides, costs = search.best()
        limits = time_limits(settings, seconds, corpus.train_tokens, sets_shape(search.overrides))
        settings = replace(settings, train=replace(settings.train, **limits))
        overrides = merge(overrides, {"train": limits})
    other_load = load.read()
    forecast = make_forecast(settings, machine, costs, corpus, finished_runs(runs, settings, corpus))
    cost = None if price is None else price * forecast.seconds / 3600
    return PlanResult(preset, settings, forecast, other_load, cost, overrides, train_command(preset, overrides))


def time_limits(settings: Settings, seconds: float, train_tokens: int, own_shape: bool) -> dict[str, Any]:
    """How the number of steps may change in the run, as the machine turns out faster or slower."""
    most = most_steps(settings, train_tokens, own_shape)
    limit = {"step_limit": max(settings.train.steps, int(most))} if most < MAX_COUNT else {}
    return {"minutes": seconds / 60, **limit}


def backtest(name: str, runs: Path = Path("runs")) -> BacktestResult:
    """Compare today's forecast for a finished run with what it measured. The run itself is left out of the loss fit."""
    run = open_run(name, runs)
    if "imported" in run.metadata():
        raise UserError(f"'{run.name}' was imported, not trained here", "choose a run that was trained here")
    settings = settings_as_made(run)
    machine = machines.choose_machine(settings.train.device, settings.train.dtype, threads=settings.train.threads)
    processor = machines.hardware(machine.device)
    if (trained_on := run.metadata().get("processor")) != processor:
        notice(f"warning: '{run.name}' was trained on another machine ({trained_on}); this is {processor}")
    corpus = read_corpus_stats(settings)
    settings = complete_for_forecast(settings, corpus, machine)
    own_runs = finished_runs(runs, settings, corpus, exclude=run.name)
    costs = measure_costs(settings, machine, existing_parent(runs), PROBE_SECONDS)
    forecast = make_forecast(settings, machine, costs, corpus, own_runs)
    return BacktestResult(run.name, compare(asdict(forecast), run), forecast.fitted_runs)


def existing_parent(folder: Path) -> Path:
    """The folder, or its nearest parent that exists, which is on the same disk."""
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())


def train_command(preset: str, overrides: Layer) -> str:
    def flag(value: object) -> str:
        if value is None:
            return "null"
        return json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple) else str(value)

    flags = [(f"--{section}.{key}", flag(value)) for section, keys in overrides.items() for key, value in keys.items()]
    return shlex.join(["fledge", "train", preset, *itertools.chain(*flags)])
