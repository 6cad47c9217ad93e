"""The score of a task with its uncertainty, and the scores of its items, so that two models can be compared."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fledge.evaluation.bootstrap import Difference, paired_bootstrap
from fledge.evaluation.sample import standard_error, t_quantile

Z = 1.96  # standard errors on each side of a 95 % interval


@dataclass(frozen=True)
class ItemScore:
    """A sum and a count, never a mean: 1 right answer of 1, or the bits and the bytes of a text."""

    total: float
    count: float = 1.0
    cluster: int = -1  # items with one number resemble each other; -1: like no other


@dataclass(frozen=True)
class TaskResult:
    task: str
    metric: str  # what `score` is
    score: float
    stderr: float | None  # None: too few items, or not known
    low: float | None  # of the 95 % interval
    high: float | None
    items: int
    chance: float | None = None  # the score of a model that knows nothing
    skipped: int = 0  # items that the tokenizer cannot encode, or that do not fit in the context
    higher_is_better: bool = True
    about: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)  # further numbers
    item_scores: Mapping[int, ItemScore] = field(default_factory=dict, repr=False)  # by number of the item

    @property
    def beats_chance(self) -> bool | None:
        """Whether the interval lies on the better side of chance; None: one of the two is not known."""
        if self.chance is None or self.low is None or self.high is None:
            return None
        return self.low > self.chance if self.higher_is_better else self.high < self.chance


@dataclass(frozen=True)
class TaskDifference:
    task: str
    metric: str
    higher_is_better: bool
    difference: Difference


def summarize(task: str, metric: str, scores: Mapping[int, ItemScore], **known: Any) -> TaskResult:
    """The score is Σ totals / Σ counts. Its interval treats clusters, not items, as drawn independently."""
    total = sum(each.total for each in scores.values())
    count = sum(each.count for each in scores.values())
    score = total / count if count else math.nan
    stderr = _standard_error(list(scores.values()))
    low, high = _interval(list(scores.values()), score, stderr)
    return TaskResult(task, metric, score, stderr, low, high, len(scores), item_scores=scores, **known)


def _labels(scores: Sequence[ItemScore]) -> list[int]:
    numbers: dict[object, int] = {}
    return [
        numbers.setdefault(("alone", at) if each.cluster < 0 else each.cluster, len(numbers))
        for at, each in enumerate(scores)
    ]


def _standard_error(scores: Sequence[ItemScore]) -> float | None:
    labels = np.array(_labels(scores))
    if len(scores) < 2 or labels.max() == 0:
        return None
    totals, counts = np.array([(each.total, each.count) for each in scores]).T
    return standard_error(totals, counts, labels, split_tokens=math.inf)


def _interval(scores: Sequence[ItemScore], score: float, stderr: float | None) -> tuple[float | None, float | None]:
    """For fractions Wilson's interval: it never has width 0, even where all items have the same score.

    It is computed for as many independent items as would give this standard error: fewer than there are, where the
    items of a cluster are right or wrong together.
    """
    if stderr is None:
        return None, None
    clusters = max(_labels(scores)) + 1
    if any(each.count != 1 or not 0 <= each.total <= 1 for each in scores):
        margin = t_quantile(clusters - 1) * stderr
        return score - margin, score + margin
    n = min(len(scores), score * (1 - score) / stderr**2) if stderr > 1e-9 else clusters
    center = (score + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(score * (1 - score) / n + Z**2 / (4 * n**2))
    return max(0.0, center - half), min(1.0, center + half)


def compare_results(first: Sequence[TaskResult], second: Sequence[TaskResult]) -> list[TaskDifference]:
    """First minus second for each task that both have, on the items that both could be asked, by a paired bootstrap."""
    others = {each.task: each for each in second}
    pairs = [(one, others[one.task]) for one in first if one.task in others]
    return [
        TaskDifference(one.task, one.metric, one.higher_is_better, difference)
        for one, other in pairs
        if (difference := _difference(one.item_scores, other.item_scores)) is not None
    ]


def _difference(first: Mapping[int, ItemScore], second: Mapping[int, ItemScore]) -> Difference | None:
    shared = [number for number in first if number in second]
    if not shared:
        return None
    labels = _labels([first[number] for number in shared])
    totals, others, counts = (
        np.bincount(labels, [getattr(side[number], name) for number in shared])
        for side, name in ((first, "total"), (second, "total"), (first, "count"))
    )
    return paired_bootstrap(totals, others, counts)
