"""The paired bootstrap: is the difference between two models real, or an accident of the text?

Both models are evaluated on the same units (documents, or items of a task). Units are drawn with replacement, the same
ones for both models, again and again: the spread of the difference over these draws is that over other texts of the
same kind. Pairing removes what makes a unit hard for both.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fledge.evaluation.sample import t_quantile

RESAMPLES = 4000
MAX_UNITS = 2000  # more are merged with their neighbours: the interval hardly changes, the time does
MIN_UNITS = 5  # below this, an interval would say nothing
CHUNK = 250  # resamples at a time
TINY = np.finfo(np.float64).tiny
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """The first minus the second. The interval excludes 0 exactly where p_value is below 0.05."""

    difference: float
    low: float  # of the 95 % interval; NaN with fewer than MIN_UNITS units
    high: float
    p_value: float  # two-sided: how often a difference this large would occur if there were none
    units: int  # that were drawn from

    @property
    def is_significant(self) -> bool:
        return self.p_value < 0.05


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    weights: ArrayLike | None = None,
    second_weights: ArrayLike | None = None,
    *,
    seed: int = 0,
) -> Difference:
    """The difference of two ratios of sums, Σ first / Σ weights - Σ second / Σ second_weights, with its 95 % interval.

    first, second [U]: the sum of each unit, such as nats of a document, or 1 for an item that was answered correctly.
    weights [U]: what they are divided by, such as bytes; None: 1 each, so that the ratios are means.

    >>> paired_bootstrap(correct_of_one_model, correct_of_another)
    """
    weights = np.ones(np.shape(first)) if weights is None else weights
    given = (first, weights, second, weights if second_weights is None else second_weights)
    arrays = [np.asarray(each, dtype=np.float64) for each in given]
    if {each.shape for each in arrays} != {(arrays[0].size,)} or not arrays[0].size:
        raise ValueError("paired units: arrays of the same length, at least 1")
    units = arrays[0].size
    sums = _merge_neighbours(np.stack(arrays, 1))
    difference = float(_difference(sums.sum(0)))
    if len(sums) < MIN_UNITS:
        return Difference(difference, math.nan, math.nan, math.nan, units)
    # Units drawn from few spread too little, and their normal approximation is too narrow: corrected as for a t test.
    correction = math.sqrt(len(sums) / (len(sums) - 1)) * t_quantile(len(sums) - 1) / 1.96
    spread = np.abs(np.concatenate(list(_resample(sums, seed))) - difference) * correction
    p_value = (1 + int((spread >= abs(difference)).sum())) / (1 + RESAMPLES)
    # The value that as many draws reach as p_value = 0.05 allows: so interval and p-value always agree.
    half = float(np.sort(spread)[-math.floor(0.05 * (1 + RESAMPLES))])
    return Difference(difference, difference - half, difference + half, min(1.0, p_value), units)


def _merge_neighbours(sums: Floats) -> Floats:
    if len(sums) <= MAX_UNITS:
        return sums
    return np.add.reduceat(sums, np.arange(MAX_UNITS) * len(sums) // MAX_UNITS)


def _resample(sums: Floats, seed: int) -> Iterator[Floats]:
    """The difference of each resample."""
    generator = np.random.default_rng(seed)
    for _ in range(0, RESAMPLES, CHUNK):
        yield _difference(generator.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), CHUNK) @ sums)


def _difference(sums: Floats) -> Floats:
    """[..., 4] → [...]"""
    first, weights, second, second_weights = np.moveaxis(sums, -1, 0)
    return first / np.maximum(weights, TINY) - second / np.maximum(second_weights, TINY)
