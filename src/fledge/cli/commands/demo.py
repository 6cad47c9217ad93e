"""fledge demo: the whole journey in about three minutes."""

import argparse

from fledge.cli.arguments import Parser

EXAMPLES = (
    "fledge demo",
    "fledge demo --minutes 10",
)


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--minutes", type=float, default=3.0, help="how long the whole demo may take (default: 3)")


def run(args: argparse.Namespace) -> None:
    from fledge.recipes import demo

    demo.run(args)
