"""How a budget is written, and costs between two measured models."""

from dataclasses import replace

import pytest

from fledge.core.errors import UserError
from fledge.planning.budget import parse_minutes
from fledge.planning.probe import Costs


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("3", 180), ("0.5", 30), ("30m", 1800), ("1h30m", 5400), ("0.5d", 43_200)]
)
def test_durations_are_parsed(text: str, seconds: float) -> None:
    assert parse_minutes(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "m", "-5m", "1y", "1h 30m", "nan", "infs", "0s", "9" * 400 + "d", "9" * 40 + "d", "1001d"]
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UserError, match="--minutes") as refusal:
        parse_minutes(text)
    assert "30" in refusal.value.hint


def test_costs_between_two_models_are_interpolated() -> None:
    small = Costs(5.0, 0.001, 0.5, 0.0001, 0.01, 2.0, peak_memory=10**9)
    large = replace(small, per_token=0.003, peak_memory=3 * 10**9)
    assert small.interpolate(large, 0.5).per_token == pytest.approx(0.002)
    assert small.interpolate(large, 0.5).peak_memory == 2 * 10**9
    assert (small.interpolate(large, 0.0), small.interpolate(large, 1.0)) == (small, large)
