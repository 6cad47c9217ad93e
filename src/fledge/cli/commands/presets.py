"""fledge presets: list the presets, or show one of them in full."""

import argparse

from fledge.cli.arguments import Parser

EXAMPLES = (
    "fledge presets",
    "fledge presets demo",
)


def add_arguments(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="show this preset in full, and what it costs")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown, as in docs/presets.md")


def run(args: argparse.Namespace) -> None:
    from fledge.recipes import presets

    presets.run(args)
