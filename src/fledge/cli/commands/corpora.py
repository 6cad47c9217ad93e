"""fledge corpora: list the named corpora, or show the beginning of one."""

import argparse

from fledge.cli.arguments import Parser

EXAMPLES = (
    "fledge corpora",
    "fledge corpora python",
)


def add_arguments(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="show the beginning of this corpus")


def run(args: argparse.Namespace) -> None:
    from fledge.recipes import corpora

    corpora.run(args)
