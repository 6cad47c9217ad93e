"""fledge data show: the text that a training step learned from."""

import argparse
import re
from typing import TYPE_CHECKING

from fledge.cli.arguments import Parser, add_common_arguments, add_run_argument
from fledge.cli.output import report
from fledge.core.errors import UserError
from fledge.core.formatting import printable

if TYPE_CHECKING:
    from fledge.insight.provenance import TrainingSample

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
    from fledge.recipes.data import show

    which = args.step if args.samples is None else sample_range(args.samples)
    batch = show(args.run, which, runs=args.runs, ranks=args.ranks, rank=args.rank, micro_batch=args.micro_batch)
    report(batch, as_json=args.json, text="\n\n".join(map(describe, batch.samples)))


def sample_range(text: str) -> range:
    """Parse '32-35', as in an Anomaly event, or '7'."""
    ends = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", text)
    numbers = range(int(ends[1]), int(ends[2] or ends[1]) + 1) if ends else range(0)
    if not 1 <= len(numbers) <= 10**6:
        raise UserError(f"--samples cannot be '{text}'", "it takes a number, or the first and the last: 32-35")
    return numbers


def describe(sample: "TrainingSample") -> str:
    first, last = sample.documents
    documents = f"document {first}" if first == last else f"documents {first} to {last}"
    lines = "\n".join(f"  | {line}" for line in printable(sample.text).split("\n"))
    micro_batch = "unknown" if sample.micro_batch is None else sample.micro_batch
    return (
        f"sample {sample.number}: rank {sample.rank}, micro-batch {micro_batch}, from token {sample.start:,},"
        f" {documents}\n{lines}"
    )
