"""fledge data show: the text that a training step learned from."""

import argparse

from fledge.cli.arguments import Parser, add_common_arguments, add_run_argument

EXAMPLES = (
    "fledge data show hamlet --step 1234",
    "fledge data show hamlet --step 1234 --ranks 4 --rank 2",
)


def add_arguments(parser: Parser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="show")
    show = actions.add_parser("show", help="print the text that a step learned from")
    add_run_argument(show)
    which = show.add_mutually_exclusive_group(required=True)
    which.add_argument("--step", type=int, metavar="N", help="a step of the run, counted from 1")
    which.add_argument("--samples", metavar="A-B", help="samples by number, as in events.jsonl")
    show.add_argument("--ranks", type=int, default=1, metavar="N", help="split the batch over N processes (default: 1)")
    show.add_argument("--rank", type=int, metavar="R", help="only the samples of this process")
    show.add_argument(
        "--micro-batch", type=int, metavar="K", help="only the samples of this micro-batch, counted from 0"
    )
    show.show_examples("fledge data show hamlet --step 1234 --ranks 4 --rank 2")
    add_common_arguments(show, subcommand=True)


def run(args: argparse.Namespace) -> None:
    from fledge.recipes import data

    data.run(args)
