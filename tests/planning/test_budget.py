"""How a time is written."""

import pytest

from fledge.core.errors import UserError
from fledge.planning.budget import parse_minutes


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
