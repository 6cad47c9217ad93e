"""The paired bootstrap: what it finds, and how often it finds what is not there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from fledge.evaluation import bootstrap
from fledge.evaluation.bootstrap import paired_bootstrap


def test_difference_is_that_of_the_ratios() -> None:
    random = np.random.default_rng(0)
    a, b, weights = random.random((3, 40))
    found = paired_bootstrap(a, b, weights)
    assert found.difference == pytest.approx((a.sum() - b.sum()) / weights.sum())
    assert found.low < found.difference < found.high
    assert found.units == 40


def test_same_data_gives_the_same_result_and_the_opposite_the_opposite() -> None:
    a, b = np.random.default_rng(1).random((2, 30))
    assert paired_bootstrap(a, b) == paired_bootstrap(a, b)
    found, opposite = paired_bootstrap(a, b), paired_bootstrap(b, a)
    assert (opposite.difference, opposite.low, opposite.p_value) == pytest.approx(
        (-found.difference, -found.high, found.p_value)
    )


@pytest.mark.parametrize("units", [6, 25])
def test_no_difference_is_found_in_about_five_percent(units: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 500)
    random, rounds, found = np.random.default_rng(2), 300, 0
    for seed in range(rounds):
        weights = random.integers(50, 500, units)
        base, a, b = random.normal(3, 1, units), *random.normal(0, 0.3, (2, units))
        found += paired_bootstrap((base + a) * weights, (base + b) * weights, weights, seed=seed).is_significant
    assert 0.015 * rounds <= found <= 0.1 * rounds


def test_real_difference_is_found_though_units_differ_more() -> None:
    random = np.random.default_rng(3)
    base = random.normal(3, 1, 100)
    found = paired_bootstrap(base + random.normal(0, 0.1, 100), base + 0.1 + random.normal(0, 0.1, 100))
    assert found.is_significant
    assert -0.15 < found.low < -0.1 < found.high < 0


def test_p_value_is_close_to_that_of_a_t_test() -> None:
    random = np.random.default_rng(4)
    for shift in (0.0, 0.1, 0.2):
        a, b = random.normal(0, 1, (2, 200))
        assert paired_bootstrap(a + shift, b).p_value == pytest.approx(ttest_rel(a + shift, b).pvalue, abs=0.03)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=5, max_size=60))
@settings(max_examples=40)
def test_interval_excludes_zero_exactly_where_p_is_below_005(items: list[tuple[int, int]]) -> None:
    a, b = np.array(items).T
    found = paired_bootstrap(a, b)
    assert found.low <= found.difference <= found.high
    assert found.is_significant == (found.low > 0 or found.high < 0)


def test_equal_models_do_not_differ() -> None:
    found = paired_bootstrap(np.ones(50), np.ones(50))
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_few_units_have_no_interval() -> None:
    found = paired_bootstrap([1, 2, 3], [1, 1, 1])
    assert found.difference == 1
    assert np.isnan([found.low, found.high, found.p_value]).all()
    assert not found.is_significant


def test_many_units_are_merged_with_their_neighbours() -> None:
    a, b = np.random.default_rng(5).random((2, 50_000))
    found = paired_bootstrap(a, b)
    assert found.units == 50_000
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.std(a - b) / np.sqrt(50_000), rel=0.1)


@pytest.mark.parametrize("arrays", [([], []), ([1.0], [1.0, 2.0]), ([[1.0]], [[1.0]])], ids=["none", "unequal", "2d"])
def test_arrays_that_are_not_paired_are_refused(arrays: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match="paired units"):
        paired_bootstrap(*arrays)
