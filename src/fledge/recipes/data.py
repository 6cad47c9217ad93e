"""fledge data show: the flight recorder. Which text did a step learn from?

Nothing is written down for it in training, as order is a pure function of the step:

step → global batch (around what was passed over) → sample numbers → windows of the split → text
"""

import argparse
import re
from dataclasses import asdict, dataclass

from fledge.batches.sampler import SkippedBatches, WindowSampler
from fledge.checkpoint import store
from fledge.cli.output import report
from fledge.core.config import listed_divisors
from fledge.core.errors import UserError
from fledge.core.formatting import printable
from fledge.datasets.cache import open_dataset_at
from fledge.datasets.shards import Split
from fledge.runs.run_folder import RunFolder, open_run
from fledge.settings.pipeline import validated
from fledge.tokenizers.base import Tokenizer
from fledge.tracking.sinks import read_events
from fledge.training.config import Settings


@dataclass(frozen=True)
class WindowText:
    """A window of the text: what one sequence of a batch was."""

    number: int
    rank: int
    micro_batch: int
    start: int  # token of the split; the window is one longer than the context, as its targets are one later
    documents: tuple[int, int]  # of the split, the first and the last that the window touches
    text: str


def run(args: argparse.Namespace) -> None:
    found = open_run(args.run, args.runs)
    settings = validated(found.config())
    if "imported" in found.metadata() or settings.data.path is None:
        raise UserError(f"'{found.name}' was not trained here: it has no steps", "name a run that was: fledge runs")
    dataset = open_dataset_at(settings.data.path, found.tokenizer)
    if dataset.fingerprint != found.metadata_value("dataset_sha256"):
        raise UserError(f"the dataset '{dataset.folder}' is not the one of '{found.name}'", "put the old one back")
    wanted = args.samples
    numbers = read_numbers(wanted) if wanted is not None else of_step(args.step, settings, skipped_batches_of(found))
    shared = local_shares(settings, args.ranks)
    samples = window_texts(numbers, settings, shared, dataset.split("train"), dataset.tokenizer)
    asked = [s for s in samples if args.rank in (None, s.rank) and args.micro_batch in (None, s.micro_batch)]
    if not asked:
        pieces = -(-shared[0] // shared[1])
        known = f"ranks are 0 to {args.ranks - 1}, micro-batches 0 to {pieces - 1}"
        raise UserError("there is no such part of the batch", known)
    answer = {"run": found.name, "step": args.step, "samples": [asdict(sample) for sample in asked]}
    report(answer, as_json=args.json, text="\n\n".join(map(in_words, asked)))


def of_step(step: int, settings: Settings, route: SkippedBatches) -> range:
    """Steps are counted from 1, as everywhere on the screen."""
    if not 1 <= step <= settings.train.steps:
        raise UserError(f"there is no step {step}", f"this run has steps 1 to {settings.train.steps}")
    first = route.batch(step - 1) * settings.train.batch
    return range(first, first + settings.train.batch)


def read_numbers(text: str) -> range:
    """'32-35', as an accident's event has them, or '7'."""
    parts = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", text)
    numbers = range(int(parts[1]), int(parts[2] or parts[1]) + 1) if parts else range(0)
    if not 1 <= len(numbers) <= 10**6:
        raise UserError(f"--samples cannot be '{text}'", "it takes a number, or the first and the last: 32-35")
    return numbers


def skipped_batches_of(run: RunFolder) -> SkippedBatches:
    """What the newest checkpoint knows of, and what has happened since."""
    checkpoints = store.complete_checkpoints(run.checkpoints)
    newest = store.find_checkpoint(run.checkpoints)[0] if checkpoints else None
    skipped = store.read_progress(newest).get("skipped", []) if newest else []
    since = newest.step if newest else 0
    for event in read_events(run.folder):
        if event["event"] == "RolledBack" and event["step"] >= since:
            first, last = event["batches"]
            skipped.append((event["step"], last - first + 1))
    return SkippedBatches(tuple((first, more) for first, more in skipped))


def local_shares(settings: Settings, ranks: int) -> tuple[int, int]:
    """How many sequences a rank has, and how many of them are computed at once."""
    batch, wanted = settings.train.batch, settings.train.micro_batch
    if ranks < 1 or batch % ranks:
        raise UserError(f"--ranks cannot be {ranks}", f"a batch of {batch} can be shared by {listed_divisors(batch)}")
    each = batch // ranks
    return each, min(wanted, each) if isinstance(wanted, int) else each


def window_texts(
    numbers: range, settings: Settings, shared: tuple[int, int], split: Split, tokenizer: Tokenizer
) -> list[WindowText]:
    context, batch, (each, micro_batch) = settings.model.context, settings.train.batch, shared
    order = WindowSampler(len(split), context, settings.data.stride or context, settings.train.seed)
    samples = []
    for number, start in zip(numbers, order.starts(numbers.start, len(numbers)).tolist(), strict=True):
        rank, place = divmod(number % batch, each)
        ids = split.read(start, context + 1)
        documents = split.documents_in(start, context + 1)
        samples.append(WindowText(number, rank, place // micro_batch, start, documents, tokenizer.decode(ids.tolist())))
    return samples


def in_words(sample: WindowText) -> str:
    first, last = sample.documents
    documents = f"document {first}" if first == last else f"documents {first} to {last}"
    where = f"rank {sample.rank}, micro-batch {sample.micro_batch}, from token {sample.start:,}, {documents}"
    lines = "\n".join(f"  | {line}" for line in printable(sample.text).split("\n"))
    return f"sample {sample.number}: {where}\n{lines}"
