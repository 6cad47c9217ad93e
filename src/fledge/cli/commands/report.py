"""fledge report: a run as one page, report.html, and the same in Markdown."""

import argparse
from pathlib import Path

from fledge.cli.arguments import Parser, add_run_argument
from fledge.cli.output import report as print_report
from fledge.core.formatting import short_path

EXAMPLES = (
    "fledge report hamlet",
    "fledge report hamlet --out ~/hamlet.html",
    "fledge report hamlet --json",
)


def add_arguments(parser: Parser) -> None:
    add_run_argument(parser, checkpoint=False)
    out = "the HTML file or a folder for it; report.md stands beside it (default: the folder of the run)"
    parser.add_argument("--out", type=Path, metavar="FILE|DIR", help=out)


def run(args: argparse.Namespace) -> None:
    from fledge.recipes.report import report

    found = report(args.run, args.runs, args.out)
    print_report(found, as_json=args.json, text=f"{short_path(found.html)}\n{short_path(found.markdown)}")
