"""Precision, recall and F1 from sums per class, which add up over the parts of the data."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ClassScores:
    precision: float
    recall: float
    f1: float


def precision_recall_f1(
    right: NDArray[np.int64], predicted: NDArray[np.int64], actual: NDArray[np.int64]
) -> tuple[ClassScores, ClassScores]:
    """Weighted by `actual`, and macro: the unweighted mean over all classes that occur, predicted or actual.

    right, predicted, actual [V]: of each class, how often it was predicted rightly, predicted, and there.
    0 divided by 0 is 0. The same numbers as scikit-learn's precision_recall_fscore_support(zero_division=0).
    """
    precision, recall = right / np.maximum(predicted, 1), right / np.maximum(actual, 1)
    f1 = 2 * right / np.maximum(predicted + actual, 1)
    occurs = (predicted + actual) > 0
    if not occurs.any():
        return ClassScores(0.0, 0.0, 0.0), ClassScores(0.0, 0.0, 0.0)
    weighted = [float((each * actual).sum() / max(1, actual.sum())) for each in (precision, recall, f1)]
    return ClassScores(*weighted), ClassScores(*(float(each[occurs].mean()) for each in (precision, recall, f1)))
