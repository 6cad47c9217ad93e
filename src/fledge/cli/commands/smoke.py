"""fledge smoke: try this machine out: train, save, kill, resume, evaluate, generate."""

import argparse

from fledge.cli.arguments import Parser
from fledge.cli.output import report
from fledge.core.formatting import format_duration

EXAMPLES = ("fledge smoke",)


def add_arguments(parser: Parser) -> None:
    """No arguments of its own."""


def run(args: argparse.Namespace) -> None:
    from fledge.recipes.smoke import smoke

    result = smoke()
    report(result, as_json=args.json, text=f"everything works on {result.device} ({format_duration(result.seconds)})")
