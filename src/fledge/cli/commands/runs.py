"""fledge runs: list the runs."""

import argparse

from fledge.cli.arguments import Parser

EXAMPLES = ("fledge runs",)


def add_arguments(parser: Parser) -> None:
    """No arguments of its own."""


def run(args: argparse.Namespace) -> None:
    from fledge.recipes import runs

    runs.run(args)
