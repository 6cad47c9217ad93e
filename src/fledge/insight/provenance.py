"""Provenance: which text did a training step learn from, and which steps learned a text?

Training records nothing for this, because the data order is a pure function of the step:

    step → global batch (skipped batches left out) → sample numbers → windows of the training split → text

and back, since each of these steps can be inverted.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fledge.batches.sampler import EMPTY, SkippedBatches
from fledge.checkpoint import store
from fledge.core.config import listed_divisors
from fledge.core.errors import UserError
from fledge.datasets.shards import Dataset
from fledge.runs.dataset import open_run_dataset
from fledge.runs.methods import PRETRAIN, method_of
from fledge.runs.run_folder import RunFolder, find_run
from fledge.settings.pipeline import validated
from fledge.tracking.sinks.jsonl import read_events
from fledge.training.setup import window_sampler


@dataclass(frozen=True)
class TrainingSample:
    """One sequence of a global batch: a window of the training split."""

    number: int
    rank: int
    micro_batch: int | None  # None: unknown
    start: int  # its first token in the split; it is one token longer than the context, for the targets
    documents: tuple[int, int]  # numbers, in the split, of the first and last document of the window
    text: str


@dataclass(frozen=True)
class Exposure:
    """A step that learned tokens of a passage."""

    step: int
    sample: int
    tokens: int  # of the passage, that it learned to predict


class Provenance:
    """The training data of a run, by step and by sample number."""

    def __init__(self, run: RunFolder, dataset: Dataset | None = None) -> None:
        """Open the dataset of the run; refuse one that was imported or aligned, and a dataset that has changed.

        dataset: that of the run, where it is open already.
        """
        if (method := method_of(run)) != PRETRAIN:
            name = pretrained_from(run)
            raise UserError(
                f"'{run.name}' was trained by 'fledge align {method}', on examples; it learned text as '{name}'",
                f'look there instead: fledge data find {name} "TEXT", or fledge data show {name} --step N',
            )
        self.run, self.settings = run, validated(run.config())
        if "imported" in run.metadata() or self.settings.data.path is None:
            raise UserError(f"'{run.name}' was not trained here: it has no steps", "choose a trained run: fledge runs")
        self.dataset = dataset or open_run_dataset(run, self.settings.data.path)

    def step(self, step: int, ranks: int = 1) -> list[TrainingSample]:
        """The global batch of a step. Steps are counted from 1."""
        return self.samples(self.numbers_of(step), ranks)

    def numbers_of(self, step: int) -> range:
        """The sample numbers of a step."""
        if not 1 <= step <= self.last_step:
            raise UserError(f"there is no step {step}", f"this run has steps 1 to {self.last_step}")
        batch = self.settings.train.batch
        first = self.skipped_batches.batch(step - 1) * batch
        return range(first, first + batch)

    def samples(self, numbers: range, ranks: int = 1) -> list[TrainingSample]:
        """Samples by their numbers, which count from the beginning of training. Those without a window are left out."""
        local_batch, micro_batch = self.batch_sizes(ranks)
        context, split = self.settings.train_context, self.dataset.split("train")
        starts = window_sampler(self.settings, len(split)).starts(numbers.start, len(numbers))
        samples = []
        for number, start in zip(numbers, starts.tolist(), strict=True):
            if start == EMPTY:
                continue
            rank, index = divmod(number % self.settings.train.batch, local_batch)
            text = self.dataset.tokenizer.decode(split.read(start, context + 1).tolist())
            documents = split.documents_in(start, context + 1)
            part = None if micro_batch is None else index // micro_batch
            samples.append(TrainingSample(number, rank, part, start, documents, text))
        return samples

    def exposures(self, first: int, stop: int, until: int) -> list[Exposure]:
        """The steps up to `until` that learned to predict some of the tokens first … stop - 1, in order.

        Batches that a rollback has undone or skipped are left out: the weights know nothing of them.
        """
        batch, context = self.settings.train.batch, self.settings.train_context
        batches = self._batches[:until]
        if not len(batches):
            return []
        sampler = window_sampler(self.settings, len(self.dataset.split("train")))
        numbers, starts = sampler.samples_with(first, stop, int(batches[-1] + 1) * batch)
        steps = np.searchsorted(batches, numbers // batch)
        trained = batches[steps] == numbers // batch
        tokens = np.minimum(stop, starts + context + 1) - np.maximum(first, starts + 1)
        rows = zip(steps[trained].tolist(), numbers[trained].tolist(), tokens[trained].tolist(), strict=True)
        return [Exposure(step + 1, number, count) for step, number, count in rows]

    def batch_sizes(self, ranks: int) -> tuple[int, int | None]:
        """Sequences per rank, and how many of them are in a micro-batch; None: unknown.

        With micro_batch = "auto" it is the size in the newest checkpoint. Earlier steps may have used a larger one: the
        size shrinks when memory runs out.
        """
        batch, micro_batch = self.settings.train.batch, self.settings.train.micro_batch
        if ranks < 1 or batch % ranks:
            raise UserError(
                f"--ranks cannot be {ranks}", f"a batch of {batch} can be split over {listed_divisors(batch)}"
            )
        local_batch = batch // ranks
        if micro_batch != "auto":
            return local_batch, min(micro_batch or local_batch, local_batch)
        saved = self._newest[1].get("micro_batch", {}).get("size")
        return local_batch, (saved if saved and local_batch % saved == 0 else None)

    @cached_property
    def _batches(self) -> NDArray[np.int64]:
        """The global batch of every step."""
        return self.skipped_batches.batches(self.last_step)

    @property
    def last_step(self) -> int:
        return self.run.last_step()

    @cached_property
    def skipped_batches(self) -> SkippedBatches:
        """The batches that rollbacks skipped: those in the newest checkpoint, and those in the events since."""
        newest, components = self._newest
        skipped = [(first, count) for first, count in components.get("step", {}).get("skipped_batches", [])]
        for event in read_events(self.run.folder):
            if event["event"] == "RolledBack" and event["step"] >= newest:
                first, last = event["skipped_batches"]
                skipped.append((event["step"], last - first + 1))
        return SkippedBatches(tuple(skipped))

    @cached_property
    def _newest(self) -> tuple[int, dict[str, Any]]:
        """Step and components (see training/checkpointer.py) of the newest checkpoint, which is verified once."""
        if store.is_unsaved(self.run.checkpoints):
            return 0, {}
        newest = store.find_checkpoint(self.run.checkpoints)[0]
        return newest.step, store.read_state_json(newest)["components"]


def pretrained_from(run: RunFolder) -> str:
    """The run whose weights an aligned run began with, or that one's, back to one that was trained on text."""
    seen = {run.folder}
    while True:
        name = str(run.metadata().get("init", "RUN"))
        before = find_run(name, run.folder.parent)
        if before is None or before.folder in seen or method_of(before) == PRETRAIN:  # seen: a run was renamed
            return name
        seen.add(before.folder)
        run = before
