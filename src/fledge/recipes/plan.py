"""Plan a training run: forecast its cost, choose its size for a budget; afterwards, check the forecast.

settings → statistics of the text → probe of a few seconds → forecast
"""

import itertools
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fledge.core import device as machines
from fledge.core.config import Layer, merge
from fledge.core.errors import UserError
from fledge.core.progress import notice
from fledge.model.flops import parameter_count
from fledge.planning.backtest import Row, compare
from fledge.planning.budget import BudgetSearch, sets_shape
from fledge.planning.corpus_stats import read_corpus_stats
from fledge.planning.forecast import Forecast, complete_for_forecast, fit_to_runs, make_forecast
from fledge.planning.probe import measure_costs
from fledge.runs.run_folder import open_run
from fledge.settings.layers import read_preset
from fledge.settings.pipeline import validated
from fledge.training.config import Settings


@dataclass(frozen=True)
class PlanResult:
    preset: str
    settings: Settings  # complete: what training would use
    forecast: Forecast
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
    price: float | None = None,
) -> PlanResult:
    """Forecast the training of a preset or FILE.toml on this machine.

    overrides: settings that replace those of the preset: section → key → value.
    seconds: for the whole run; size, batch and steps are then chosen to use them well.
    price: of one hour of this machine.
    """
    overrides = overrides or {}
    if price is not None and not 0 <= price < math.inf:
        raise UserError(f"--price cannot be {price:g}", "it is the price of an hour of this machine, such as 2.5")
    if seconds is not None and {"steps", "epochs"} & set(overrides.get("train", {})):
        raise UserError("--minutes sets train.steps, so neither steps nor epochs can be given", "leave one of them out")
    layer, _ = read_preset(preset)
    settings = validated(layer, overrides)
    machine = machines.choose_machine(settings.train.device, settings.train.dtype)
    corpus = read_corpus_stats(settings)
    curve, fitted_runs = fit_to_runs(settings, corpus, runs)
    folder = existing_parent(runs)
    if seconds is None:
        settings = complete_for_forecast(settings, corpus, machine)
        costs = measure_costs(settings, machine, folder)
    else:
        search = BudgetSearch(layer, overrides, settings, corpus, curve, machine, seconds, folder)
        settings, costs = search.best()
    forecast = make_forecast(settings, machine, costs, corpus, curve, fitted_runs)
    cost = None if price is None else price * forecast.seconds / 3600
    if seconds is not None:
        overrides = merge(chosen_settings(settings, overrides), overrides)
    return PlanResult(preset, settings, forecast, cost, overrides, train_command(preset, overrides))


def backtest(name: str, runs: Path = Path("runs")) -> BacktestResult:
    """Compare today's forecast for a finished run with what it measured. The run itself is left out of the loss fit."""
    run = open_run(name, runs)
    if "imported" in run.metadata():
        raise UserError(f"'{run.name}' was imported, not trained here", "choose a run that was trained here")
    settings = validated(run.config())
    machine = machines.choose_machine(settings.train.device, settings.train.dtype)
    processor = machines.hardware(machine.device)
    if (trained_on := run.metadata().get("processor")) != processor:
        notice(f"warning: '{run.name}' was trained on another machine ({trained_on}); this is {processor}")
    corpus = read_corpus_stats(settings)
    settings = complete_for_forecast(settings, corpus, machine)
    curve, fitted_runs = fit_to_runs(settings, corpus, runs, exclude=run.name)
    costs = measure_costs(settings, machine, existing_parent(runs))
    forecast = make_forecast(settings, machine, costs, corpus, curve, fitted_runs)
    return BacktestResult(run.name, compare(forecast, run), fitted_runs)


def existing_parent(folder: Path) -> Path:
    """The folder, or its nearest parent that exists, which is on the same disk."""
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())


def chosen_settings(settings: Settings, overrides: Layer) -> Layer:
    """What the budget search has chosen, as a minimal set of overrides."""
    chosen: dict[str, dict[str, Any]] = {"train": {"batch": settings.train.batch, "steps": settings.train.steps}}
    if not sets_shape(overrides):
        chosen["model"] = {"size": parameter_count(settings.model)}
        if settings.tokenizer.kind == "bpe":
            chosen["tokenizer"] = {"vocab_size": settings.model.vocab_size}
    return chosen


def train_command(preset: str, overrides: Layer) -> str:
    flags = [(f"--{section}.{key}", str(value)) for section, keys in overrides.items() for key, value in keys.items()]
    return shlex.join(["fledge", "train", preset, *itertools.chain(*flags)])
