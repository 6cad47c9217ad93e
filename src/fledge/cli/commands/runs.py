"""fledge runs: list the runs."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fledge.cli.arguments import Parser
from fledge.cli.output import report

if TYPE_CHECKING:
    from fledge.recipes.runs import RunSummary

EXAMPLES = ("fledge runs",)


def add_arguments(parser: Parser) -> None:
    """No arguments of its own."""


def run(args: argparse.Namespace) -> None:
    from fledge.recipes.runs import summarize_runs

    summaries = summarize_runs(args.runs)
    report(summaries, as_json=args.json, text=runs_table(summaries, args.runs))


def runs_table(summaries: Sequence["RunSummary"], folder: Path) -> str:
    if not summaries:
        return f"no runs in '{folder}' yet; train one first: fledge demo"
    lines = [f"{'run':<28}{'parameters':>14}{'step':>16}{'best val loss':>16}  started"]
    for each in summaries:
        loss = each.best_val_loss
        best = "-" if loss is None or math.isnan(loss) else f"{loss:.4f}"
        step = f"{each.step:,}/{each.steps:,}"
        lines.append(f"{each.run:<28}{each.parameters:>14,}{step:>16}{best:>16}  {each.started}")
    return "\n".join(lines)
