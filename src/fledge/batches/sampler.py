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
    half = U64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = U64((1 << int(half)) - 1)

    def once(values: Numbers, keys: Numbers) -> Numbers:
        left, right = values >> half, values & mask
        for round in range(ROUNDS):
            left, right = right, left ^ (mix(right ^ mix(keys + U64(round))) & mask)
        return (left << half) | right

    with np.errstate(over="ignore"):
        result = once(numbers, keys)
        while (outside := result >= U64(size)).any():
            result[outside] = once(result[outside], keys[outside])
    return result


@dataclass(frozen=True)
class SkippedBatches:
    """Step → global batch: step number plus the number of skipped batches."""

    ranges: tuple[tuple[int, int], ...] = ()  # (first step, count): from this step on, `count` batches later

    def batch(self, step: int) -> int:
        return step + sum(count for first, count in self.ranges if first <= step)

    def skip(self, restored_step: int, failed: int) -> "SkippedBatches":
        """After a rollback from step `failed`: `restored_step` now gets the batch after the one of `failed`."""
        before = SkippedBatches(tuple(each for each in self.ranges if each[0] < restored_step))
        return SkippedBatches((*before.ranges, (restored_step, self.batch(failed) + 1 - before.batch(restored_step))))


@dataclass(frozen=True)
class WindowSampler:
    """The order of windows of `context` + 1 tokens (inputs, and the targets one later) over `tokens` tokens."""

    tokens: int
    context: int
    stride: int
    seed: int

    def __post_init__(self) -> None:
        if self.tokens < self.context + 1:
            raise UserError(
                f"the training split has {self.tokens} tokens, but one context needs {self.context + 1}",
                "use more text, or a smaller model.context",
            )

    @property
    def windows_per_epoch(self) -> int:
        """Windows in one pass over the text."""
        return max(1, (self.tokens - 1 - self.context) // self.stride)

    def starts(self, first: int, count: int) -> NDArray[np.int64]:
        """The first tokens of samples first … first + count - 1."""
        samples = np.arange(first, first + count, dtype=U64)
        epochs, windows = samples // U64(self.windows_per_epoch), samples % U64(self.windows_per_epoch)
        keys = mix(mix(np.full(count, self.seed, dtype=U64)) ^ epochs)
        phase_count = min(self.stride, self.tokens - self.context - (self.windows_per_epoch - 1) * self.stride)
        phase = mix(keys) % U64(phase_count)
        return (permute(windows, self.windows_per_epoch, keys) * U64(self.stride) + phase).astype(np.int64)
