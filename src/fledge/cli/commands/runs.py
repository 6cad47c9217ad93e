"""fledge runs: list, delete and rename the runs."""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fledge.cli.arguments import Parser, add_common_arguments
from fledge.cli.output import report
from fledge.core.errors import UserError
from fledge.core.files import human_bytes
from fledge.core.formatting import counted, printable, short_path

if TYPE_CHECKING:
    from fledge.recipes.manage_runs import Removal
    from fledge.recipes.runs import RunSummary

EXAMPLES = (
    "fledge runs",
    "fledge runs rename demo-2 hamlet",
    "fledge runs delete demo demo-3",
)


def add_arguments(parser: Parser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="delete|rename", help="without it: list the runs")
    delete = actions.add_parser("delete", help="delete runs, with all their checkpoints")
    delete.add_argument("names", nargs="+", metavar="RUN", help="run or sweep to delete")
    delete.add_argument("--yes", action="store_true", help="do not ask")
    delete.show_examples("fledge runs delete demo demo-3")
    rename = actions.add_parser("rename", help="rename a run")
    rename.add_argument("name", metavar="RUN", help="run or sweep to rename")
    rename.add_argument("new", metavar="NEW", help="its new name")
    rename.show_examples("fledge runs rename demo-2 hamlet")
    for each in (delete, rename):
        add_common_arguments(each, subcommand=True)


def run(args: argparse.Namespace) -> None:
    {"delete": run_delete, "rename": run_rename, None: run_list}[args.action](args)


def run_delete(args: argparse.Namespace) -> None:
    from fledge.recipes.manage_runs import delete_runs, find_removals

    removals = find_removals(args.names, args.runs)
    what = "\n".join(describe_removal(each) for each in removals)
    if not args.yes:
        if not sys.stdin.isatty():
            raise UserError(f"nothing is deleted without being asked: {', '.join(args.names)}", "add --yes")
        print(what, file=sys.stderr)
        if input("delete? [y/N] ").strip().lower() not in ("y", "yes"):
            raise UserError("nothing was deleted", "answer y, or add --yes")
    delete_runs(removals)
    report({"deleted": removals}, as_json=args.json, text=f"deleted:\n{what}")


def describe_removal(removal: "Removal") -> str:
    trials = f", {counted(removal.trials, 'trial')}" if removal.trials else ""
    return f"  {printable(removal.name)}: {human_bytes(removal.bytes)}{trials}"


def run_rename(args: argparse.Namespace) -> None:
    from fledge.recipes.manage_runs import rename_run

    renamed = rename_run(args.name, args.new, args.runs)
    text = f"'{printable(args.name)}' is now '{renamed.name}', in {short_path(renamed.folder)}"
    report({"run": renamed.name, "folder": renamed.folder}, as_json=args.json, text=text)


def run_list(args: argparse.Namespace) -> None:
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
