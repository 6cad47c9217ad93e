"""fledge eject: a model as one readable file that does not need fledge."""

import argparse

from fledge.cli.arguments import Parser, add_settings_argument

EXAMPLES = (
    "fledge eject hamlet --out gpt.py",
    "fledge eject gpt2 --model.n_layer 6 --out half.py",
)
TAKES_SETTINGS = True


def add_arguments(parser: Parser) -> None:
    parser.add_argument("model", metavar="PRESET|RUN", help="a run, a preset or a FILE.toml, tried in this order")
    parser.add_argument("--out", required=True, metavar="FILE", help="the new file, e.g. gpt.py")
    add_settings_argument(parser, "with a preset: any setting, e.g. --model.n_layer 6")


def run(args: argparse.Namespace) -> None:
    from fledge.recipes import eject

    eject.run(args)
