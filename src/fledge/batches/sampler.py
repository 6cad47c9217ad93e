"""Which window is sample n: a pure function of (seed, n), on any number of machines.

An epoch visits every window of the split once, in pseudo-random order; the next epoch uses another order and another
phase, so that its windows start at other tokens. There is no state and no generator: a run can continue at any step.

The order is a permutation by a Feistel network: the number is cut into two halves, and each round mixes one half with a
hash of the other. Such a network permutes the numbers below 2^(2k); results outside the epoch go through it again until
they are inside ("cycle walking").
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fledge.core.errors import UserError

EMPTY = -1  # the start of a sample that is no window: a row of a batch with fewer windows than rows

U64 = np.uint64
Numbers = NDArray[np.uint64]
ROUNDS = 6


def mix(values: Numbers) -> Numbers:
    """SplitMix64's finaliser: every input bit changes about half of the output bits."""
    with np.errstate(over="ignore"):
        values = values + U64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> U64(30))) * U64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> U64(27))) * U64(0x94D049BB133111EB)
    return values ^ (values >> U64(31))


def permute(numbers: Numbers, size: int, keys: Numbers) -> Numbers:
    """A permutation of the numbers below `size` for each key, applied elementwise."""
    return _walk(numbers, size, keys, backwards=False)


def unpermute(numbers: Numbers, size: int, keys: Numbers) -> Numbers:
    """The inverse: unpermute(permute(numbers, size, keys), size, keys) == numbers."""
    return _walk(numbers, size, keys, backwards=True)


def _walk(numbers: Numbers, size: int, keys: Numbers, *, backwards: bool) -> Numbers:
    half = U64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = U64((1 << int(half)) - 1)

    def once(values: Numbers, keys: Numbers) -> Numbers:
        left, right = values >> half, values & mask
        for round in reversed(range(ROUNDS)) if backwards else range(ROUNDS):
            key = mix(keys + U64(round))
            if backwards:
                left, right = right ^ (mix(left ^ key) & mask), left
            else:
                left, right = right, left ^ (mix(right ^ key) & mask)
        return (left << half) | right

    with np.errstate(over="ignore"):
        result = once(numbers, keys)
        while (outside := result >= U64(size)).any():
            result[outside] = once(result[outside], keys[outside])
    return result


def shuffled(first: int, count: int, size: int, seed: int) -> NDArray[np.int64]:
    """Which of `size` examples are samples first … first + count - 1: an epoch visits each once, in its own order."""
    samples = np.arange(first, first + count, dtype=U64)
    keys = mix(mix(np.full(count, seed, dtype=U64)) ^ (samples // U64(size)))
    return permute(samples % U64(size), size, keys).astype(np.int64)


@dataclass(frozen=True)
class SkippedBatches:
    """Step → global batch: step number plus the number of skipped batches."""

    ranges: tuple[tuple[int, int], ...] = ()  # (first step, count): from this step on, `count` batches later

    def batch(self, step: int) -> int:
        return step + sum(count for first, count in self.ranges if first <= step)

    def batches(self, steps: int) -> NDArray[np.int64]:
        """The global batches of the first `steps` steps."""
        numbers = np.arange(steps, dtype=np.int64)
        return numbers + sum(count * (numbers >= first) for first, count in self.ranges)

    def skip(self, restored_step: int, failed: int) -> "SkippedBatches":
        """After a rollback from step `failed`: `restored_step` now gets the batch after the one of `failed`."""
        before = SkippedBatches(tuple(each for each in self.ranges if each[0] < restored_step))
        return SkippedBatches((*before.ranges, (restored_step, self.batch(failed) + 1 - before.batch(restored_step))))


@dataclass(frozen=True)
class WindowSampler:
    """The order of windows of `context` + 1 tokens (inputs, and the targets one later) over `tokens` tokens.

    This one is shuffled; orders.py has the others.
    """

    tokens: int
    context: int
    stride: int
    seed: int
    batch: int = 1  # rows of a global batch; the sequential order depends on it

    def __post_init__(self) -> None:
        if self.tokens < self.context + 1:
            raise UserError(
                f"the training split has {self.tokens} tokens, but one context needs {self.context + 1}",
                "use more text, or a smaller model.context (train.context where that is set)",
            )

    @property
    def windows_per_epoch(self) -> int:
        """Windows in one pass over the text."""
        return max(1, (self.tokens - 1 - self.context) // self.stride)

    def steps_per_epoch(self, batch: int) -> float:
        """Batches of so many windows in one pass over the text."""
        return self.windows_per_epoch / batch

    def windows_in(self, samples: int) -> int:
        """How many of the samples 0 … samples - 1 are windows."""
        return samples

    def starts(self, first: int, count: int) -> NDArray[np.int64]:
        """The first tokens of samples first … first + count - 1; EMPTY where there is no window."""
        samples = np.arange(first, first + count, dtype=U64)
        epochs, windows = samples // U64(self.windows_per_epoch), samples % U64(self.windows_per_epoch)
        keys, phases = self._keys_and_phases(epochs)
        return (permute(windows, self.windows_per_epoch, keys) * U64(self.stride) + phases).astype(np.int64)

    def samples_with(self, first: int, stop: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which of the samples 0 … count - 1 have a target among tokens first … stop - 1, and where they begin.

        The inverse of `starts`: a window that begins at s has the targets s + 1 … s + context.
        """
        windows = self.windows_per_epoch
        epochs = np.arange(-(-count // windows), dtype=U64)
        keys, phases = self._keys_and_phases(epochs)
        offsets = phases.astype(np.int64)[:, None]
        lowest = -((self.context - first + offsets) // self.stride)  # [epochs, 1], rounded up
        candidates = lowest + np.arange((stop - 2 - first + self.context) // self.stride + 2)
        begins = candidates * self.stride + offsets
        inside = (candidates >= 0) & (candidates < windows) & (begins <= stop - 2)
        epoch, _ = np.nonzero(inside)
        places = unpermute(candidates[inside].astype(U64), windows, keys[epoch]).astype(np.int64)
        numbers, begins = epoch * windows + places, begins[inside]
        order = np.argsort(numbers)
        order = order[numbers[order] < count]
        return numbers[order], begins[order]

    def _keys_and_phases(self, epochs: Numbers) -> tuple[Numbers, Numbers]:
        """Of each epoch: the key of its order, and how far its windows are shifted."""
        keys = mix(mix(np.full(len(epochs), self.seed, dtype=U64)) ^ epochs)
        phase_count = min(self.stride, self.tokens - self.context - (self.windows_per_epoch - 1) * self.stride)
        return keys, mix(keys) % U64(phase_count)
