"""The fixed sample of a split, and its standard error."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.datasets.shards import Split
from fledge.evaluation.sample import (
    MIN_CLUSTERS,
    clusters,
    margin_of_error,
    sample_windows,
    standard_error,
    t_quantile,
    windows,
)


def make_split(documents: list[int]) -> Split:
    """A split of documents of these lengths."""
    ids = np.zeros(sum(documents), dtype=np.uint16)
    return Split("val", [ids], [np.cumsum([0, *documents[:-1]])])


@given(length=st.integers(2, 5000), context=st.integers(1, 100), tokens=st.integers(1, 6000), seed=st.integers(0, 99))
def test_sample_is_spread_over_the_windows_of_the_split(length: int, context: int, tokens: int, seed: int) -> None:
    every, chosen = windows(length, context), sample_windows(length, context, tokens, seed)
    assert set(chosen) <= set(every)
    assert sorted(set(chosen)) == chosen
    assert len(chosen) == min(len(every), max(1, round(tokens / context)))
    assert chosen == sample_windows(length, context, tokens, seed)
    thirds = [sum(a <= start < a + length / 3 for start, _ in chosen) for a in (0, length / 3, 2 * length / 3)]
    assert max(thirds) - min(thirds) <= 4


def test_another_seed_draws_other_windows() -> None:
    assert sample_windows(10_000, 10, 500, 0) != sample_windows(10_000, 10, 500, 1)


def test_windows_of_one_document_are_a_cluster() -> None:
    split = make_split([40] * 50)
    labels = clusters(split, [(start, 10) for start in range(0, 1990, 10)])
    assert labels.tolist() == [start // 40 for start in range(0, 1990, 10)]


@pytest.mark.parametrize("documents", [[2000], [1999, 1], [700, 1300]])
def test_long_documents_are_divided_into_blocks(documents: list[int]) -> None:
    labels = clusters(make_split(documents), [(start, 10) for start in range(0, 1990, 10)])
    assert labels.max() + 1 >= MIN_CLUSTERS
    assert np.bincount(labels).max() <= 199 // MIN_CLUSTERS
    assert (np.diff(labels) >= 0).all()


def test_short_documents_count_by_window() -> None:
    labels = clusters(make_split([3] * 1000), [(start, 10) for start in range(0, 300, 10)])
    assert labels.tolist() == list(range(30))


def test_standard_error_equals_that_of_a_mean_of_independent_windows() -> None:
    nats = np.random.default_rng(0).normal(30, 5, 400)
    error = standard_error(nats, np.full(400, 10.0), np.arange(400), 10**9)
    assert error == pytest.approx(nats.std(ddof=1) / 10 / 20, rel=1e-3)


def test_standard_error_of_equal_windows_in_a_document_counts_them_once() -> None:
    nats = np.random.default_rng(0).normal(30, 5, 40)
    alone = standard_error(nats, np.full(40, 10.0), np.arange(40), 10**9)
    repeated = standard_error(nats.repeat(9), np.full(360, 10.0), np.arange(40).repeat(9), 10**9)
    assert repeated == pytest.approx(alone, rel=1e-4)


def test_standard_error_shrinks_to_zero_with_the_rest_of_the_split() -> None:
    nats, tokens = np.random.default_rng(0).normal(30, 5, 400), np.full(400, 10.0)
    half, whole = (standard_error(nats, tokens, np.arange(400), size) for size in (8000, 4000))
    assert half == pytest.approx(nats.std(ddof=1) / 10 / 20 * 0.5**0.5, rel=1e-3)
    assert whole == 0


def test_one_cluster_has_no_margin_of_error() -> None:
    assert margin_of_error(np.ones(3), np.ones(3), np.zeros(3, dtype=np.int64), 100) is None


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.706), (4, 2.776), (5, 2.571), (10, 2.228), (15, 2.131), (30, 2.042), (10**9, 1.96)],
)
def test_quantiles_of_students_t_distribution(freedom: int, quantile: float) -> None:
    assert t_quantile(freedom) == pytest.approx(quantile, abs=0.004)


@pytest.mark.parametrize("count", [2, 4, 8, 16])
def test_interval_of_few_windows_holds_the_mean_in_19_of_20_samples(count: int) -> None:
    nats, tokens = np.random.default_rng(0).normal(30, 5, (2000, count)), np.full(count, 10.0)
    margins = [margin_of_error(own, tokens, np.arange(count), 10**9) for own in nats]
    assert np.mean(np.abs(nats.mean(1) / 10 - 3) < np.array(margins)) == pytest.approx(0.95, abs=0.015)


def test_interval_holds_the_whole_splits_loss() -> None:
    """Documents differ in their mean; 95 % intervals of 200 samples must hold the true mean about as often."""
    chance = np.random.default_rng(1)
    sizes = chance.integers(50, 900, 150).tolist()
    split = make_split(sizes)
    every = windows(len(split), 10)
    begins = np.cumsum([0, *sizes[:-1]])
    means = chance.normal(3, 0.4, len(sizes))
    losses = {
        start: means[np.searchsorted(begins, start, side="right") - 1] + chance.normal(0, 0.5) for start, _ in every
    }
    nats = {(start, count): losses[start] * count for start, count in every}
    truth, held = sum(nats.values()) / (len(split) - 1), 0
    for seed in range(200):
        chosen = sample_windows(len(split), 10, 1500, seed)
        own, tokens = np.array([nats[each] for each in chosen]), np.array([float(count) for _, count in chosen])
        margin = margin_of_error(own, tokens, clusters(split, chosen), len(split) - 1)
        assert margin is not None
        held += abs(own.sum() / tokens.sum() - truth) < margin
    assert held >= 185
