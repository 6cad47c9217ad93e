"""fledge plan: forecast time, memory and loss of a training run."""

import argparse
import shlex
from typing import TYPE_CHECKING, Any

from fledge.cli.arguments import Parser, add_portable_argument, add_settings_argument, given_settings
from fledge.core.errors import UserError

if TYPE_CHECKING:
    from fledge.planning.forecast import Forecast
    from fledge.recipes.plan import BacktestResult, PlanResult

EXAMPLES = (
    "fledge plan demo",
    "fledge plan modern --model.size 125M --price 2.5",
    "fledge plan my-notes/ --minutes 3",
    "fledge plan --against hamlet",
)
TAKES_SETTINGS = True
NOTABLE_LOAD = 0.2  # cores


def add_arguments(parser: Parser) -> None:
    parser.add_argument("words", nargs="*", metavar="TEXT|PRESET", help="what to train, as for 'fledge train'")
    parser.add_argument(
        "--minutes", metavar="N", help="choose size, batch and steps for this time: 3, 0.5, or 90s, 1h30m …"
    )
    parser.add_argument("--price", type=float, metavar="NUMBER", help="what an hour of this machine costs")
    parser.add_argument("--against", metavar="RUN", help="compare the forecast for a finished run with what happened")
    add_portable_argument(parser)
    add_settings_argument(parser, "any setting, e.g. --model.size 30M")


def run(args: argparse.Namespace) -> None:
    from dataclasses import asdict

    from fledge.cli.output import report
    from fledge.core.config import to_layer
    from fledge.planning.budget import parse_minutes
    from fledge.planning.sized import sized_for_steps
    from fledge.recipes.plan import backtest, plan
    from fledge.settings.layers import read_preset
    from fledge.settings.words import TEXT_PRESET, choose

    if args.against:
        if args.words or args.overrides or (args.minutes, args.price) != (None, None):
            raise UserError("--against takes no preset and no settings", "give only the run: fledge plan --against RUN")
        checked = backtest(args.against, args.runs)
        value = {"run": checked.run, **checked.rows, "fitted_runs": checked.fitted_runs}
        report(value, as_json=args.json, text=backtest_text(checked))
        return
    choice = choose(args.words, given_settings(args), args.runs)
    choice.refuse_empty("plan")
    if args.minutes is not None:
        seconds: float | None = parse_minutes(args.minutes)
    else:
        seconds = choice.default_minutes and 60 * choice.default_minutes
    overrides = choice.overrides
    if choice.is_text_alone and seconds is None:  # as training does
        overrides = sized_for_steps(read_preset(TEXT_PRESET)[0], overrides)
    planned = plan(choice.preset or TEXT_PRESET, overrides, args.runs, seconds=seconds, price=args.price)
    answer: dict[str, Any] = {
        "preset": planned.preset,
        **asdict(planned.forecast),
        "other_load": planned.other_load,
        "cost": planned.cost,
        "command": planned.command,
        "settings": to_layer(planned.settings),
    }
    next_commands = f"next: {planned.command}"
    if seconds is not None:  # training measures again, so it may choose a little differently
        time = [] if args.minutes is None else ["--minutes", args.minutes]
        time += ["--portable"] * args.portable
        words = shlex.join(["fledge", "train", *args.words, *args.overrides, *time])
        next_commands = f"next: {words}\nor with exactly these settings: {planned.command}"
    report(answer, as_json=args.json, text=f"{plan_text(planned)}\n{next_commands}")


def plan_text(planned: "PlanResult") -> str:
    from dataclasses import asdict

    from fledge.core.cgroups import usable_cores
    from fledge.core.files import human_bytes
    from fledge.core.formatting import counted, format_duration, short_count
    from fledge.core.threads import describe_load
    from fledge.planning.budget import precise_duration

    settings, forecast = planned.settings, planned.forecast
    parts = [f"{name} {format_duration(seconds)}" for name, seconds in asdict(forecast.parts).items()]
    batch = f"{forecast.batch:,} × {settings.train_context:,}"
    rows = {
        "model": f"{forecast.parameters:,} parameters: {settings.model.n_layer} blocks, width {settings.model.n_embd}",
        "length": f"{forecast.steps:,} steps of {batch} tokens: {forecast.tokens:,}",
        "compute": f"{short_count(forecast.flops)} FLOPs",
        "machine": f"{forecast.device}, {forecast.dtype}, {'compiled' if forecast.compiled else 'not compiled'}",
        "speed": f"{forecast.tokens_per_second:,.0f} tokens/s; {precise_duration(forecast.step_seconds)} per step",
        "memory": human_bytes(forecast.memory),
        "time": f"{format_duration(forecast.seconds)}: {', '.join(parts)}",
        "cost": None if planned.cost is None else f"{planned.cost:.2f}",
        "loss": loss_text(forecast),
    }
    lines = [f"{name:<9}{text}" for name, text in rows.items() if text]
    if (patience := planned.settings.train.patience) is not None:
        lines.append(f"at most: it ends earlier after {counted(patience, 'evaluation')} without a better one")
    if not forecast.corpus_known:
        lines.append(f"the text of '{planned.preset}' is not prepared yet: its length and vocabulary are estimates")
    if planned.other_load is not None and planned.other_load > NOTABLE_LOAD:
        load = describe_load(planned.other_load, usable_cores())
        lines.append(f"{load}: the time is that of the machine as it is now; alone it is shorter")
    return "\n".join(lines)


def loss_text(forecast: "Forecast") -> str:
    from fledge.core.formatting import counted

    bits, nats = forecast.bits_per_byte, forecast.loss
    if bits is None or nats is None:
        return "not forecast: no runs like this were measured"
    own = f"; fitted to {counted(len(forecast.fitted_runs), 'finished run')}" if forecast.fitted_runs else ""
    return (
        f"{bits.expected:.2f} bits per byte (90 % interval: {bits.low:.2f} to {bits.high:.2f}),"
        f" {nats.expected:.2f} nats per token ({nats.low:.2f} to {nats.high:.2f}){own}"
    )


def backtest_text(checked: "BacktestResult") -> str:
    from fledge.core.files import human_bytes
    from fledge.core.formatting import format_duration

    formats = {
        "seconds": ("time", format_duration),
        "step_seconds": ("step", lambda seconds: f"{1000 * seconds:,.1f} ms"),
        "tokens_per_second": ("tokens/s", lambda speed: f"{speed:,.0f}"),
        "memory": ("memory", human_bytes),
        "bits_per_byte": ("bits/byte", lambda loss: f"{loss:.4f}"),
    }
    lines = [f"{'':<10}{'predicted':>14}{'measured':>14}{'difference':>12}"]
    for name, (title, show) in formats.items():
        row = checked.rows[name]
        cells = ["-" if (value := row[key]) is None else show(value) for key in ("predicted", "measured")]
        off = row["difference_percent"]
        lines.append(f"{title:<10}{cells[0]:>14}{cells[1]:>14}{'-' if off is None else f'{off:+.1f} %':>12}")
    loss = checked.rows["bits_per_byte"]
    low, high, measured = loss.get("low"), loss.get("high"), loss["measured"]
    if low and high:
        inside = "" if measured is None else f", {'inside' if low <= measured <= high else 'outside'}"
        lines.append(f"{'':<10}90 % interval: {low:.4f} to {high:.4f} bits per byte{inside}")
    return "\n".join(lines)
