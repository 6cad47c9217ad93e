"""fledge eval: measure a model on a whole split."""

import argparse

from fledge.cli.arguments import Parser, add_device_argument, add_run_argument

EXAMPLES = (
    "fledge eval hamlet",
    "fledge eval hamlet@latest --json",
)


def add_arguments(parser: Parser) -> None:
    add_run_argument(parser)
    parser.add_argument("--split", default="val", help="train, val or test (default: val)")
    parser.add_argument("--data", metavar="DIR", help="another prepared dataset, also s3://… (same tokenizer)")
    add_device_argument(parser)


def run(args: argparse.Namespace) -> None:
    from fledge.recipes import evaluate

    evaluate.run(args)
