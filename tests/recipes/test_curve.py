"""The curve of the loss: what it says where nothing was measured, and how measurements bend it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.planning.loss_curve import ROUGH, LossCurve, LossPoint, fit, new_points

numbers = st.integers(10**5, 10**9)
sizes = st.floats(1e5, 1e12)


@given(numbers, numbers, sizes, sizes)
def test_more_parameters_and_more_text_never_cost(one: int, other: int, less: float, more: float) -> None:
    (small, large), (less, more) = sorted((one, other)), sorted((less, more))
    assert ROUGH.loss(small, less) >= ROUGH.loss(large, less) >= ROUGH.loss(large, more) > ROUGH.floor


def test_the_rough_curve_meets_the_points_it_is_drawn_through() -> None:
    assert ROUGH.loss(787_584, 1.54e6) == pytest.approx(1.90, rel=0.02)
    assert ROUGH.loss(125_000_000, 1.17e10) == pytest.approx(0.75, rel=0.02)
    assert ROUGH.loss(124_000_000, 1.3e12) == pytest.approx(0.65, abs=0.02)


def test_without_runs_nothing_is_bent() -> None:
    found = fit([])
    assert (found.floor, found.size, found.text) == pytest.approx((ROUGH.floor, ROUGH.size, ROUGH.text))


@pytest.mark.parametrize("loss", [0.9, 1.4, 2.2])
def test_one_run_is_met_and_what_is_near_it_moves_with_it(loss: float) -> None:
    found = fit([LossPoint(10**6, 1e7, loss)])
    assert found.loss(10**6, 1e7) == pytest.approx(loss, rel=0.03)
    assert (found.loss(2 * 10**6, 2e7) < ROUGH.loss(2 * 10**6, 2e7)) == (loss < ROUGH.loss(10**6, 1e7))


def test_many_runs_tell_the_curve_they_came_from() -> None:
    true = LossCurve(floor=0.5, size=7.0, text=9.0)
    points = [LossPoint(n, b, true.loss(n, b)) for n in (10**5, 10**6, 10**7, 10**8) for b in (1e5, 1e7, 1e9)]
    found = fit(points)
    assert found.loss(3 * 10**6, 3e8) == pytest.approx(true.loss(3 * 10**6, 3e8), rel=0.01)


@given(sizes, sizes)
def test_text_read_again_is_worth_less_each_time(there: float, seen: float) -> None:
    worth = new_points(seen, there)
    assert worth <= seen * (1 + 1e-9)
    assert worth <= 16 * there * (1 + 1e-9)
    assert new_points(2 * seen, there) >= worth
    if seen <= there:
        assert worth == seen


def test_a_second_pass_is_nearly_as_good_as_new_text() -> None:
    assert new_points(2.0, 1.0) == pytest.approx(1 + 15 * (1 - math.exp(-1 / 15)))
    assert 1.9 < new_points(2.0, 1.0) < 2
