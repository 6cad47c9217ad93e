"""data.order: the orders in which training reads windows. Each a pure function of (seed, sample number).

shuffled    every window once in an epoch, in pseudo-random order (sampler.py)
random      with replacement: a window begins at any token, as in nanoGPT
sequential  every window once in an epoch, in order; the last batch of an epoch holds what is left
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fledge.batches.sampler import EMPTY, U64, WindowSampler, mix

SCANNED = 1 << 20  # samples at a time, where all of them have to be looked at
KEPT = 32  # such pieces that are kept for the next search, 8 MiB each


@dataclass(frozen=True)
class RandomSampler(WindowSampler):
    """Windows that begin at any token, with replacement. An epoch is as many windows as fit side by side."""

    def starts(self, first: int, count: int) -> NDArray[np.int64]:
        samples = np.arange(first, first + count, dtype=U64)
        keys = mix(np.full(count, self.seed, dtype=U64))
        return (mix(mix(keys) ^ samples) % U64(self.tokens - self.context)).astype(np.int64)

    def samples_with(self, first: int, stop: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Nothing but a scan can find them, as there is no order."""
        numbers, found = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for begin in range(0, count, SCANNED):
            starts = scanned_starts(self, begin, SCANNED)[: count - begin]
            (rows,) = np.nonzero((starts <= stop - 2) & (starts >= first - self.context))
            numbers.append(rows + begin)
            found.append(starts[rows])
        return np.concatenate(numbers), np.concatenate(found)


@lru_cache(maxsize=KEPT)
def scanned_starts(sampler: RandomSampler, begin: int, count: int) -> NDArray[np.int64]:
    return sampler.starts(begin, count)


@dataclass(frozen=True)
class SequentialSampler(WindowSampler):
    """Windows in order. Every epoch begins with the first token of the split, and with a new batch."""

    @property
    def windows_per_epoch(self) -> int:
        return (self.tokens - 1 - self.context) // self.stride + 1

    @property
    def samples_per_epoch(self) -> int:
        """Windows, and the empty rows of the last batch."""
        return -(-self.windows_per_epoch // self.batch) * self.batch

    def steps_per_epoch(self, batch: int) -> float:
        return float(-(-self.windows_per_epoch // batch))

    def windows_in(self, samples: int) -> int:
        epochs, rest = divmod(samples, self.samples_per_epoch)
        return epochs * self.windows_per_epoch + min(rest, self.windows_per_epoch)

    def starts(self, first: int, count: int) -> NDArray[np.int64]:
        windows = np.arange(first, first + count, dtype=np.int64) % self.samples_per_epoch
        return np.where(windows < self.windows_per_epoch, windows * self.stride, EMPTY)

    def samples_with(self, first: int, stop: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        lowest = max(0, -((self.context - first) // self.stride))  # rounded up
        windows = np.arange(lowest, min(self.windows_per_epoch, (stop - 2) // self.stride + 1), dtype=np.int64)
        epochs = np.arange(-(-count // self.samples_per_epoch), dtype=np.int64)
        numbers = (epochs[:, None] * self.samples_per_epoch + windows).ravel()
        starts = np.tile(windows * self.stride, len(epochs))
        return numbers[numbers < count], starts[numbers < count]


SAMPLERS: dict[str, type[WindowSampler]] = {
    "shuffled": WindowSampler,
    "random": RandomSampler,
    "sequential": SequentialSampler,
}
