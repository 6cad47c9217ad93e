"""Which window is sample n: a pure function of (seed, n), for ever and on any number of machines.

An epoch visits every window of the split once, in an order that looks random, and the next epoch uses another
order and another phase, so that windows do not begin at the same places again. Nothing is stored and nothing
is drawn from a generator: sample n is computed from n alone, so a run can go on at any step.

The order is a permutation made by a Feistel network: the number is cut into two halves, and each round mixes
one half with a hash of the other. Such a network maps every number below 2^(2k) to exactly one other; numbers
that land outside the epoch are sent through again until they land inside ("cycle walking").
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
    """Each number below `size` to another below `size`; for each key, one to one."""
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
    """Which global batch a step learns from: the one of its own number, unless some had to be passed over before."""

    skipped: tuple[tuple[int, int], ...] = ()  # (from this step on, this many batches later)

    def batch(self, step: int) -> int:
        return step + sum(more for first, more in self.skipped if first <= step)

    def around(self, back: int, failed: int) -> "SkippedBatches":
        """Step `failed` went wrong, and `back` is made again: with the batch that would have come after."""
        before = SkippedBatches(tuple(detour for detour in self.skipped if detour[0] < back))
        return SkippedBatches((*before.skipped, (back, self.batch(failed) + 1 - before.batch(back))))


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
                f"the text has {self.tokens} tokens for training, and one context needs {self.context + 1}",
                "use more text, or a smaller model.context",
            )

    @property
    def epoch(self) -> int:
        """Windows in one pass over the text."""
        return max(1, (self.tokens - 1 - self.context) // self.stride)

    def starts(self, first: int, count: int) -> NDArray[np.int64]:
        """Where the windows of samples first … first + count - 1 begin."""
        samples = np.arange(first, first + count, dtype=U64)
        epochs, places = samples // U64(self.epoch), samples % U64(self.epoch)
        keys = mix(mix(np.full(count, self.seed, dtype=U64)) ^ epochs)
        room = min(self.stride, self.tokens - self.context - (self.epoch - 1) * self.stride)
        phase = mix(keys) % U64(room)
        return (permute(places, self.epoch, keys) * U64(self.stride) + phase).astype(np.int64)
