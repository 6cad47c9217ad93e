"""fledge doctor: what this machine is, and what fledge will use on it."""

import argparse

from fledge.cli.arguments import Parser

EXAMPLES = ("fledge doctor",)


def add_arguments(parser: Parser) -> None:
    """No arguments of its own."""


def run(args: argparse.Namespace) -> None:
    from fledge.recipes import doctor

    doctor.run(args)
