"""fledge plot: draw loss, learning rate, gradient norm and speed of one or several runs."""

import argparse
from pathlib import Path

from fledge.cli.arguments import Parser, add_run_argument
from fledge.cli.output import report
from fledge.core.formatting import short_path

EXAMPLES = (
    "fledge plot hamlet",
    "fledge plot a b --out cmp/",
)


def add_arguments(parser: Parser) -> None:
    add_run_argument(parser, many=True)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: plots/ of the first run)")


def run(args: argparse.Namespace) -> None:
    from fledge.recipes.plot import plot

    figures = plot(args.references, args.runs, args.out).figures
    text = "\n".join(map(short_path, figures))
    report({"figures": figures}, as_json=args.json, text=text)
