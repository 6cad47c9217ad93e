"""fledge sweep: search for the best settings with many training runs."""

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from fledge.cli.arguments import Parser, add_engine_arguments, positive_int

if TYPE_CHECKING:
    from fledge.recipes.sweep import SweepResult

REASON_WIDTH = 60  # characters

EXAMPLES = (
    "fledge sweep rates.toml                               needs Optuna: pip install 'fledge[sweep]'",
    "fledge sweep rates.toml --trials 40 --workers 4       interrupted or finished: the same command continues",
    "fledge plot rates/trial-0007 rates/trial-0012",
    "",
    "rates.toml:",
    "  [sweep]",
    '  preset = "demo"              # or a FILE.toml',
    "  trials = 20",
    "  seed = 1",
    '  metric = "val/loss"          # or "val/bits_per_byte", to compare tokenizers',
    "  [space]",
    '  "optim.lr" = {low = 1e-4, high = 1e-2, log = true}',
    '  "model.n_layer" = [2, 4, 6]',
    "  [train]                      # and any other settings, the same for all trials",
    "  steps = 200",
)


def add_arguments(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE.toml", help="sweep definition, see below")
    trials = "number of trials (default: as in the file, or 20)"
    parser.add_argument("--trials", type=positive_int, metavar="N", help=trials)
    parser.add_argument("--run", metavar="NAME", help="name of the sweep (default: the file's); its runs are in NAME/")
    workers = "concurrent trials (default: 1; then the result is reproducible)"
    parser.add_argument("--workers", type=positive_int, default=1, metavar="N", help=workers)
    add_engine_arguments(parser, "processes")


def run(args: argparse.Namespace) -> None:
    from fledge.cli.output import report
    from fledge.recipes.sweep import sweep

    result = sweep(
        args.file,
        args.runs,
        name=args.run,
        trials=args.trials,
        workers=args.workers,
        engine=args.engine,
        address=args.address,
    )
    trials = [{"trial": trial.name, **asdict(trial)} for trial in result.trials]
    report({**asdict(result), "trials": trials}, as_json=args.json, text=describe(result))


def describe(result: "SweepResult") -> str:
    """A table of all trials, and what to do next."""
    from pathlib import Path

    from fledge.core.formatting import printable, short_path
    from fledge.sweep.search import format_value

    rows = [["trial", result.metric, "step", "state", *result.trials[0].settings]]
    for trial in result.trials:
        loss = "-" if trial.loss is None else f"{trial.loss:.4f}"
        state = f"failed: {printable(trial.reason)[:REASON_WIDTH]}" if trial.reason else trial.state
        rows.append([trial.name, loss, f"{trial.step:,}", state, *map(format_value, trial.settings.values())])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if result.picture is None:
        return "\n".join([*lines, "", f"no trial finished; their output: {result.folder}/trial-*.log"])
    return "\n".join([*lines, "", f"picture: {short_path(Path(result.picture))}", f"next: {result.command}"])
