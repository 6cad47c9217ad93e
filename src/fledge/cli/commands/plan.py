"""fledge plan: what a training will take, measured in seconds."""

import argparse

from fledge.cli.arguments import Parser, add_settings_argument

EXAMPLES = (
    "fledge plan demo",
    "fledge plan modern --model.size 125M --price 2.5",
    "fledge plan demo --data.corpus my-notes/ --budget 30m",
    "fledge plan --against hamlet",
)
TAKES_SETTINGS = True


def add_arguments(parser: Parser) -> None:
    parser.add_argument("preset", nargs="?", metavar="PRESET|FILE.toml", help="what to train")
    parser.add_argument(
        "--budget", metavar="TIME", help="choose size, batch and steps for this time: 90s, 30m, 1h30m …"
    )
    parser.add_argument("--price", type=float, metavar="NUMBER", help="what an hour of this machine costs")
    parser.add_argument("--against", metavar="RUN", help="compare the forecast for a finished run with what happened")
    add_settings_argument(parser, "any setting, e.g. --model.size 30M")


def run(args: argparse.Namespace) -> None:
    from fledge.recipes import plan

    plan.run(args)
