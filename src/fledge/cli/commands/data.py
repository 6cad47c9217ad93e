"""fledge data: the text that a training step learned from, and the steps that learned a text."""

import argparse
import re
from typing import TYPE_CHECKING

from fledge.cli.arguments import Parser, add_common_arguments, add_run_argument
from fledge.cli.output import report
from fledge.core.errors import UserError
from fledge.core.formatting import counted, printable

if TYPE_CHECKING:
    from fledge.insight.origin import Match, TextOrigin
    from fledge.insight.provenance import TrainingSample

EXAMPLES = (
    "fledge data show hamlet --step 1234",
    "fledge data show hamlet --step 1234 --ranks 4 --rank 2",
    'fledge data find hamlet "the lady doth protest too much"',
)
SHOWN_STEPS = 10
AROUND = 70  # characters shown before and after a passage


def add_arguments(parser: Parser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="show|find")
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
    find = actions.add_parser("find", help="find a text in the training data, and the steps that learned it")
    add_run_argument(find)
    find.add_argument("text", metavar="TEXT", help="a passage, as the model wrote it")
    find.add_argument(
        "--min",
        type=int,
        metavar="N",
        help="tokens of a match that counts as copied (default: measured on unseen text)",
    )
    find.add_argument(
        "--no-loss", action="store_true", help="leave out the loss before and after, which takes a moment"
    )
    find.show_examples('fledge data find hamlet "the lady doth protest too much"')
    add_common_arguments(find, subcommand=True)


def run(args: argparse.Namespace) -> None:
    {"show": run_show, "find": run_find}[args.action](args)


def run_show(args: argparse.Namespace) -> None:
    from fledge.recipes.data import show

    which = args.step if args.samples is None else sample_range(args.samples)
    batch = show(args.run, which, runs=args.runs, ranks=args.ranks, rank=args.rank, micro_batch=args.micro_batch)
    report(batch, as_json=args.json, text="\n\n".join(map(describe, batch.samples)))


def run_find(args: argparse.Namespace) -> None:
    from fledge.recipes.provenance import find_origin
    from fledge.runs.run_folder import open_run

    if args.min is not None and args.min < 1:
        raise UserError(f"--min cannot be {args.min}", "it takes a number of tokens, 1 or more")
    folder = open_run(args.run, args.runs, default="best")
    origin = find_origin(folder, args.text, minimum=args.min, losses=not args.no_loss)
    report(origin, as_json=args.json, text=describe_origin(origin))


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


def describe_origin(origin: "TextOrigin") -> str:
    head = f"{origin.verdict}: {origin.explanation}"
    return "\n\n".join([head, *map(describe_match, origin.matches), origin.caveat])


def describe_match(match: "Match") -> str:
    place = match.occurrences[0]
    before, after = place.before[-AROUND:], place.after[:AROUND]
    passage = printable(f"…{before}[{place.text}]{after}…")
    lines = "\n".join(f"  | {line}" for line in passage.split("\n"))
    times = "once" if match.count == 1 else f"{match.count:,} times"
    usual = ", no longer than matches of unseen text" if match.ordinary else ""
    head = f"{counted(match.stop - match.first, 'token')}, {times} in the training data{usual}"
    return f"{head}\n{lines}\n  document {place.document}, token {place.offset:,}; {describe_learning(match)}"


def describe_learning(match: "Match") -> str:
    """learned at steps 3, 67 · loss here 2.61 before step 3 (at step 2), 2.40 after it (at step 4)"""
    if not match.steps:
        return "no step has learned it"
    shown = ", ".join(f"{step:,}" for step in match.steps[:SHOWN_STEPS])
    more = f", … ({len(match.steps):,} steps)" if len(match.steps) > SHOWN_STEPS else ""
    learned = f"learned at {'step' if len(match.steps) == 1 else 'steps'} {shown}{more}"
    steps = [each.step for each in match.occurrences[0].exposures]
    if not match.losses or not steps:
        return learned
    before, after = match.loss_around(steps[0])
    loss = []
    if before:
        loss.append(f"{before.loss:.2f} before step {steps[0]:,} (at step {before.step:,})")
    if after:
        loss.append(f"{after.loss:.2f} after {'it' if before else f'step {steps[0]:,}'} (at step {after.step:,})")
    return f"{learned} · loss here {', '.join(loss)}" if loss else learned
