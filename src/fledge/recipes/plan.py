"""fledge plan: what a training will take and come to, before anybody pays for it; afterwards, how far that was off.

settings → what is known of the text → a probe of some seconds → forecast; with a budget the settings are searched first
"""

import argparse
import itertools
import math
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fledge.cli.output import report
from fledge.core import device as machines
from fledge.core.config import Layer, merge, read_overrides, to_layer
from fledge.core.errors import UserError
from fledge.core.files import human_bytes
from fledge.core.formatting import counted, format_duration
from fledge.core.progress import notice
from fledge.model.flops import parameters
from fledge.planning.backtest import compare, comparison_in_words
from fledge.planning.budget import BudgetSearch, brief, read_time
from fledge.planning.corpus_stats import read_corpus_stats
from fledge.planning.forecast import Forecast, complete_for_forecast, fitted, make_forecast
from fledge.planning.probe import measure
from fledge.recipes.presets import short
from fledge.runs import run_folder
from fledge.settings import scaling_rules
from fledge.settings.pipeline import read_preset, resolve, validated
from fledge.training.config import Settings

SHAPE = set(scaling_rules.FOLLOWS["model"])


def run(args: argparse.Namespace) -> None:
    refuse_odd_words(args)
    if args.against:
        look_back(args.against, args.runs, as_json=args.json)
        return
    settings = resolve(args.preset, args.overrides)
    said = read_overrides(args.overrides)
    seconds = read_time(args.budget) if args.budget is not None else None
    if seconds is not None and {"steps", "epochs"} & set(said.get("train", {})):
        raise UserError("--budget says how long: train.steps and train.epochs follow", "leave them out, or --budget")
    machine = machines.choose_machine(settings.train.device, settings.train.dtype)
    text = read_corpus_stats(settings)
    curve, used = fitted(settings, text, args.runs)
    folder = standing(args.runs)
    if seconds is None:
        settings = complete_for_forecast(settings, text, machine)
        measured = measure(settings, machine, folder)
    else:
        below, _ = read_preset(args.preset)
        settings, measured = BudgetSearch(below, said, settings, text, curve, machine, seconds, folder).best()
    forecast = make_forecast(settings, machine, measured, text, curve, used)
    cost = None if args.price is None else args.price * forecast.seconds / 3600
    command = in_shell(args.preset, said, settings, chosen=seconds is not None)
    answer = {"preset": args.preset, **asdict(forecast), "cost": cost, "command": command}
    answer["settings"] = to_layer(settings)
    report(answer, as_json=args.json, text=in_words(args.preset, settings, forecast, cost, command))


def refuse_odd_words(args: argparse.Namespace) -> None:
    if args.against and (args.preset or args.overrides or (args.budget, args.price) != (None, None)):
        raise UserError("--against looks back at a run as it was", "give nothing besides: fledge plan --against RUN")
    if not (args.against or args.preset):
        raise UserError("what is to be planned?", "name a preset or a FILE.toml, or look back: --against RUN")
    if args.price is not None and not 0 <= args.price < math.inf:
        raise UserError(f"--price cannot be {args.price:g}", "it is what an hour of the machine costs: 2.5")


def standing(folder: Path) -> Path:
    """The folder, or what there is of the way to it: on the same disk."""
    return next(place for place in (folder, *folder.absolute().parents) if place.is_dir())


def look_back(name: str, runs: Path, *, as_json: bool) -> None:
    """What a plan says of a run today, beside what the run says itself. It teaches the curve nothing meanwhile."""
    run = run_folder.open_run(name, runs)
    run.refuse_changed()
    if "imported" in run.facts():
        raise UserError(f"'{run.name}' was imported: it was never trained here", "look back at a run that was")
    settings = validated(run.config())
    machine = machines.choose_machine(settings.train.device, settings.train.dtype)
    processor = machines.hardware(machine.device)
    if (then := run.facts().get("processor")) != processor:
        notice(f"warning: '{run.name}' was trained on another machine ({then}); this is {processor}")
    text = read_corpus_stats(settings)
    settings = complete_for_forecast(settings, text, machine)
    curve, used = fitted(settings, text, runs, leave_out=run.name)
    forecast = make_forecast(settings, machine, measure(settings, machine, standing(runs)), text, curve, used)
    rows = compare(forecast, run)
    report({"run": run.name, **rows, "loss_from": used}, as_json=as_json, text=comparison_in_words(rows))


def in_shell(preset: str, said: Layer, settings: Settings, *, chosen: bool) -> str:
    """The command that trains what was planned."""
    words: dict[str, dict[str, Any]] = {}
    if chosen:
        words["train"] = {"batch": settings.train.batch, "steps": settings.train.steps}
        if not SHAPE & set(said.get("model", {})):
            words["model"] = {"size": parameters(settings.model)}
            if settings.tokenizer.kind == "bpe":
                words["tokenizer"] = {"vocab_size": settings.model.vocab_size}
    flags = [
        (f"--{section}.{key}", str(value))
        for section, keys in merge(words, said).items()
        for key, value in keys.items()
    ]
    return shlex.join(["fledge", "train", preset, *itertools.chain(*flags)])


def in_words(preset: str, settings: Settings, forecast: Forecast, cost: float | None, command: str) -> str:
    model, parts = settings.model, forecast.parts
    around = {name: seconds for name, seconds in asdict(parts).items() if name != "steps"}
    fitted_to = f"fitted to {counted(len(forecast.loss_from), 'finished run')}" if forecast.loss_from else "rough"
    rows = {
        "model": f"{forecast.parameters:,} parameters: {model.n_layer} blocks, {model.n_embd} wide",
        "length": f"{forecast.steps:,} steps of {forecast.batch:,} × {model.context:,} tokens: {forecast.tokens:,}",
        "work": f"{short(forecast.operations)} operations",
        "machine": f"{forecast.device}, {forecast.dtype}, {'compiled' if forecast.compiled else 'not compiled'}",
        "speed": f"{forecast.tokens_per_second:,.0f} tokens/s; a step takes {brief(forecast.step_seconds)}",
        "memory": human_bytes(forecast.memory),
        "time": f"{format_duration(forecast.seconds)}: steps {format_duration(parts.steps)}, "
        + ", ".join(f"{name} {format_duration(seconds)}" for name, seconds in around.items()),
        "cost": None if cost is None else f"{cost:.2f}",
        "loss": f"about {forecast.loss:.2f} nats a token ({fitted_to})",
    }
    lines = [f"{name:<9}{words}" for name, words in rows.items() if words]
    if not forecast.text_known:
        lines.append(f"the text of '{preset}' is not prepared yet: its length and vocabulary are guessed")
    return "\n".join([*lines, f"next: {command}"])
