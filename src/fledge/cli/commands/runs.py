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
from fledge.core.formatting import counted, fit_cells, printable, short_path, shorten

if TYPE_CHECKING:
    from fledge.runs.manage_runs import Removal
    from fledge.runs.summary import RunSummary

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
    from fledge.runs.manage_runs import delete_runs, find_removals

    removals = find_removals(args.names, args.runs)
    what = "\n".join(describe_removal(each) for each in removals)
    if not args.yes:
        if not sys.stdin.isatty():
            raise UserError(f"deleting must be confirmed: {', '.join(args.names)}", "add --yes")
        print(what, file=sys.stderr)
        if input("delete? [y/N] ").strip().lower() not in ("y", "yes"):
            raise UserError("nothing was deleted", "answer y, or add --yes")
    delete_runs(removals)
    report({"deleted": removals}, as_json=args.json, text=f"deleted:\n{what}")


def describe_removal(removal: "Removal") -> str:
    trials = f", {counted(removal.trials, 'trial')}" if removal.trials else ""
    return f"  {printable(removal.name)}: {human_bytes(removal.bytes)}{trials}"


def run_rename(args: argparse.Namespace) -> None:
    from fledge.runs.manage_runs import rename_run

    renamed = rename_run(args.name, args.new, args.runs)
    text = f"'{printable(args.name)}' is now '{renamed.name}', in {short_path(renamed.folder)}"
    report({"run": renamed.name, "folder": renamed.folder}, as_json=args.json, text=text)


def run_list(args: argparse.Namespace) -> None:
    from fledge.runs.summary import summarize_runs

    summaries = summarize_runs(args.runs)
    report(summaries, as_json=args.json, text=runs_table(summaries, args.runs))


def runs_table(summaries: Sequence["RunSummary"], folder: Path) -> str:
    """A line for each run. Losses on a sample of the validation split are marked: ~3.012."""
    if not summaries:
        return f"no runs in '{folder}' yet; train one: fledge demo, or fledge train TEXT"
    widest = min(28, max(8, *(len(each.run) + 2 for each in summaries)))
    aligned = any(each.method != "pretrain" for each in summaries)  # then there are two columns more
    method, reward = (f"{'method':<11}", f"{'reward':>9}") if aligned else ("", "")
    head = f"{'state':<12}{method}{'step':>15}{'saved':>9}{'parameters':>14}{'val loss':>10}{'bits/byte':>11}{reward}"
    lines = [f"{fit_cells('run', widest)}{head}{'size':>10}  {'text':<18}started"]
    for each in summaries:
        numbers = f"{each.step:,}/{each.steps:,}".rjust(15) + f"{each.saved_step:,}".rjust(9)
        mark = "" if each.whole_split else "~"
        loss, bits, reward = (
            "-" if value is None or math.isnan(value) else f"{mark}{value:.3f}"
            for value in (each.val_loss, each.bits_per_byte, each.reward)
        )
        method = f"{each.method:<11}" * aligned
        text = fit_cells(shorten(Path(each.text).name, 16), 18)
        row = f"{each.state:<12}{method}{numbers}{each.parameters:>14,}{loss:>10}{bits:>11}"
        row += f"{reward:>9}" * aligned + f"{human_bytes(each.bytes):>10}"
        lines.append(f"{fit_cells(shorten(each.run, widest - 1), widest)}{row}  {text}{each.started[:10]}")
    lines += [f"{printable(each.run)}: {each.stopped_early}" for each in summaries if each.stopped_early]
    if any(each.val_loss is not None and not each.whole_split for each in summaries):
        lines.append("~ on a sample of the validation split")
    return "\n".join(lines)
