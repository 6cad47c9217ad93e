"""The curve with axes: where points, ticks and marks stand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.tracking.chart import BEST, VAL, Axis, Curve, braille, draw, format_tick, round_values, value_axis

WIDTH, HEIGHT = 60, 12
FINITE = st.floats(-1e6, 1e6)


def lines_of(*args: object) -> list[str]:
    return ["".join(text for text, _ in row) for row in draw(*args)]  # type: ignore[arg-type]


@given(st.lists(FINITE, min_size=1, max_size=300), st.integers(30, 150), st.integers(5, 20))
def test_every_curve_fits(values: list[float], width: int, height: int) -> None:
    lines = lines_of([*enumerate(values)], [(0.0, values[0])], (0.0, values[0]), width, height)
    assert len(lines) == height + 2
    assert all(len(line) == width for line in lines[:height])
    assert max(map(len, lines)) <= width
    assert BEST in "".join(lines)


def test_falling_curve_begins_at_the_top_and_ends_at_the_bottom() -> None:
    lines = lines_of([(step, 3.0 - step / 100) for step in range(101)], [], None, WIDTH, HEIGHT)
    first, last = lines[0].split("┤")[-1].split("│")[-1], lines[HEIGHT - 1].split("┤")[-1].split("│")[-1]
    assert first[0] > "\u2800"
    assert last[-1] > "\u2800"
    assert "┤" in lines[0]
    assert float(lines[0].split()[0]) == 3.0
    assert lines[-1].split() == ["0", "50", "100"]


def test_line_has_no_gaps() -> None:
    """A step up or down is drawn through all rows between, and missing columns are straight lines."""
    rows = braille([0, 13, 27, 40, 3, 3, 3], 4, 11)
    assert all(any(letter != " " for letter in row) for row in rows)
    lines = lines_of([(0, 1.0), (100, 2.0)], [], None, WIDTH, HEIGHT)
    plot = [line[6:] for line in lines[:HEIGHT]]
    for column in range(2, WIDTH - 8):
        assert any(row[column] != " " for row in plot), column


def test_marks_of_evaluations_and_of_the_best_stand_at_their_value() -> None:
    train = [(step, 4.0 - step / 50) for step in range(101)]
    lines = lines_of(train, [(0, 4.0), (50, 3.0), (100, 2.0)], (100, 2.0), WIDTH, HEIGHT)
    places = {mark: [n for n, line in enumerate(lines) if mark in line] for mark in (VAL, BEST)}
    assert places[BEST] == [HEIGHT - 1]
    assert places[VAL][0] == 0
    assert abs(places[VAL][1] - HEIGHT / 2) <= 1
    assert "".join(lines).count(VAL) == 2, "the best one has its own mark"


@pytest.mark.parametrize(
    ("values", "log"), [([9.0, 3.0], True), ([3.0, 2.9], False), ([9.0, -1.0], False), ([9.0, 0.0], False)]
)
def test_logarithmic_where_it_shows_more(values: list[float], log: bool) -> None:
    assert value_axis(values).log is log


def test_logarithmic_axis_has_its_middle_at_the_geometric_mean() -> None:
    assert Axis(1.0, 100.0, log=True).place(10.0, 101) == 50
    assert Axis(1.0, 100.0).place(50.5, 101) == 50


def test_one_value_and_none() -> None:
    assert draw([], [], None, WIDTH, HEIGHT) == []
    assert len(lines_of([(5, 2.0)], [], None, WIDTH, HEIGHT)) == HEIGHT + 2


@given(FINITE, st.floats(1e-3, 1e6), st.integers(2, 9))
def test_ticks_are_round_and_inside(low: float, span: float, wanted: int) -> None:
    found = round_values(low, low + span, wanted)
    assert len(found) <= 2 * wanted + 1
    assert all(low - span * 1e-6 <= value <= low + span * (1 + 1e-6) for value in found)


def test_ticks_have_as_many_digits_as_they_need() -> None:
    assert [format_tick(value, [2.0, 3.0]) for value in (2.0, 3.0)] == ["2", "3"]
    assert format_tick(2.5, [2.0, 2.5]) == "2.5"
    assert format_tick(0.0005, [0.0005, 0.001]) == "0.0005"
    assert format_tick(2.5e7, [0.0, 2.5e7]) == "2.5e+07"


def test_curve_of_a_million_points_stays_small_and_keeps_its_shape() -> None:
    curve = Curve(most=64)
    for step in range(100_000):
        curve.add(step, float(step))
    assert len(curve.points) <= 64
    assert curve.all[-1][0] > 98_000
    assert all(step == pytest.approx(value) for step, value in curve.all)
    curve.add(5, math.nan)
    curve.add(5, math.inf)
    assert all(math.isfinite(value) for _, value in curve.all)
