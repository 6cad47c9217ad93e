"""A curve with axes, drawn with characters: steps to the right, values upwards.

    ⠒ train  ● val  ◆ best 2.3370 at step 60 · loss, log scale
    4.2 ┤⢣
        │ ⢣
    3.0 ┤  ⠉⠒⢄
        │     ⠑●⢄
    2.4 ┤        ⠑⠒●⠒◆
        └┬──────────┬───
         0         50

`draw` knows no terminal: its rows are pieces of text with the name of what they show, and a view gives them colours.
The line is made of braille letters, two dots wide and four dots high; each dot column is the mean of its points.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from fledge.core.formatting import short_count

Point = tuple[float, float]  # step, value
Row = list[tuple[str, str]]  # (text, role): "axis", "train", "val" or "best"

ACROSS, UP = 2, 4  # dots of a letter
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # bits of U+2800, from the top
VAL, BEST = "●", "◆"
LOG_RATIO = 2.5  # the largest value over the smallest, from which a logarithmic axis shows more
ROUND = (1.0, 2.0, 2.5, 5.0)  # steps between ticks, times a power of ten
ROUND_LOG = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)  # ticks of a logarithmic axis
TICK_ROWS, TICK_LETTERS = 3, 14  # from one tick to the next, about


@dataclass
class Curve:
    """The points of a growing series; beyond `most`, neighbours are averaged, so that memory stays small."""

    most: int = 1024  # even; more than a terminal has dot columns
    points: list[Point] = field(default_factory=list)
    _each: int = 1  # points that were averaged into one
    _waiting: list[Point] = field(default_factory=list)

    def add(self, step: float, value: float) -> None:
        if not math.isfinite(value):
            return
        self._waiting.append((step, value))
        if len(self._waiting) < self._each:
            return
        self.points.append(mean_point(self._waiting))
        self._waiting = []
        if len(self.points) >= self.most:
            self.points = [mean_point(pair) for pair in zip(self.points[::2], self.points[1::2], strict=True)]
            self._each *= 2

    def rewind(self, step: float) -> None:
        """Forget what came after a step."""
        self.points, self._waiting = (
            [each for each in kept if each[0] <= step] for kept in (self.points, self._waiting)
        )

    @property
    def all(self) -> list[Point]:
        return [*self.points, *([mean_point(self._waiting)] if self._waiting else [])]


def mean_point(points: Sequence[Point]) -> Point:
    steps, values = zip(*points, strict=True)
    return sum(steps) / len(points), sum(values) / len(points)


@dataclass(frozen=True)
class Axis:
    low: float
    high: float
    log: bool = False

    def place(self, value: float, places: int) -> int:
        """Of a value among so many places, from 0."""
        bend: Callable[[float], float] = math.log if self.log else float
        share = (bend(value) - bend(self.low)) / (bend(self.high) - bend(self.low))
        return max(0, min(places - 1, round(share * (places - 1))))


def row_of(value: float, axis: Axis, height: int) -> int:
    """From the top: the letter that holds the dot of this value."""
    return height - 1 - axis.place(value, height * UP) // UP


def value_axis(values: Sequence[float]) -> Axis:
    low, high = min(values), max(values)
    if low == high:
        return Axis(low - 0.5, high + 0.5)
    return Axis(low, high, log=low > 0 and high / low >= LOG_RATIO)


def draw(train: Sequence[Point], val: Sequence[Point], best: Point | None, width: int, height: int) -> list[Row]:
    """Rows of `width` letters: `height` of the curve, and two of the lower axis. None where there is no point."""
    values = [value for _, value in (*train, *val)]
    if not values:
        return []
    axis = value_axis(values)
    labels = dict(value_ticks(axis, height))
    margin = max(len(text) for text in labels.values())
    across = width - margin - 2
    steps = [step for step, _ in (*train, *val)]
    below = Axis(min(steps), max(max(steps), min(steps) + 1))
    letters = braille(line_dots(train, below, axis, across, height), across, height)
    cells = [[(letter, "train") for letter in row] for row in letters]
    for points, letter, role in ((val, VAL, "val"), ([best] if best else [], BEST, "best")):
        for step, value in points:
            cells[row_of(value, axis, height)][below.place(step, across)] = (letter, role)
    rows: list[Row] = []
    for number, letters_of_row in enumerate(cells):
        label = labels.get(number, "")
        joined = [("".join(text for text, _ in same), role) for role, same in _grouped(letters_of_row)]
        rows.append([(f"{label:>{margin}} {'┤' if label else '│'}", "axis"), *joined])
    return [*rows, *([(text, "axis")] for text in step_axis(below, margin, across))]


def _grouped(row: Sequence[tuple[str, str]]) -> Iterable[tuple[str, list[tuple[str, str]]]]:
    return ((role, list(same)) for role, same in itertools.groupby(row, key=lambda cell: cell[1]))


def line_dots(points: Sequence[Point], below: Axis, axis: Axis, across: int, height: int) -> list[int | None]:
    """Of each dot column: how high the line is, from 0 at the bottom. Between two points it is straight."""
    columns: list[list[float]] = [[] for _ in range(across * ACROSS)]
    for step, value in points:
        columns[below.place(step, len(columns))].append(value)
    known = [(number, axis.place(sum(v) / len(v), height * UP)) for number, v in enumerate(columns) if v]
    dots: list[int | None] = [None] * len(columns)
    for number, dot in known:
        dots[number] = dot
    for (left, first), (right, last) in itertools.pairwise(known):
        for number in range(left + 1, right):
            dots[number] = round(first + (last - first) * (number - left) / (right - left))
    return dots


def braille(dots: Sequence[int | None], across: int, height: int) -> list[str]:
    """The line as letters, from the top. A dot column reaches up or down to the one before it."""
    bits = [[0] * across for _ in range(height)]
    before: int | None = None
    for number, dot in enumerate(dots):
        if dot is not None:
            reached = dot if before is None or abs(before - dot) <= 1 else before + (1 if dot > before else -1)
            for each in range(min(dot, reached), max(dot, reached) + 1):
                from_top = height * UP - 1 - each
                bits[from_top // UP][number // ACROSS] |= DOTS[from_top % UP][number % ACROSS]
        before = dot
    return ["".join(chr(0x2800 + each) if each else " " for each in row) for row in bits]


def value_ticks(axis: Axis, height: int) -> list[tuple[int, str]]:
    """Row from the top → label, far enough from each other; the highest and the lowest row where no tick is near."""
    values = log_ticks(axis) if axis.log else round_values(axis.low, axis.high, max(2, height // TICK_ROWS))
    rows: dict[int, float] = {}
    for value in values:
        row = row_of(value, axis, height)
        if all(abs(row - other) >= TICK_ROWS - 1 for other in rows):
            rows[row] = value
    if not rows:
        rows = {height - 1: axis.low, 0: axis.high}
    return [(row, format_tick(value, list(rows.values()))) for row, value in rows.items()]


def log_ticks(axis: Axis) -> list[float]:
    powers = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
    values = [each * 10.0**power for power in powers for each in ROUND_LOG]
    return [value for value in values if axis.low <= value <= axis.high]


def round_values(low: float, high: float, wanted: int) -> list[float]:
    """About so many round values between two."""
    if not (span := high - low) > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / wanted))
    distance = next(each * power for each in (*ROUND, 10.0) if each * power >= span / wanted)
    first, last = math.ceil(low / distance - 1e-9), math.floor(high / distance + 1e-9)
    return [number * distance for number in range(first, last + 1)]


def format_tick(value: float, all_values: Sequence[float]) -> str:
    """With as many digits as tell the values apart."""
    if max(map(abs, all_values)) >= 1e6:
        return f"{value:.2g}"
    for digits in range(7):
        texts = [f"{each:.{digits}f}" for each in all_values]
        if all(math.isclose(float(text), each, rel_tol=1e-3) for text, each in zip(texts, all_values, strict=True)):
            break
    return f"{value:.{digits}f}"


def step_axis(below: Axis, margin: int, across: int) -> list[str]:
    """The line below the curve with its ticks, and their steps."""
    line, labels = ["─"] * across, [" "] * (across + 8)
    free = 0
    for step in round_values(below.low, below.high, max(1, across // TICK_LETTERS)):
        if step != round(step):
            continue
        place, text = below.place(step, across), step_text(step)
        start = max(0, min(place - len(text) // 2, across - len(text)))
        if start >= free:
            line[place] = "┬"
            labels[start : start + len(text)] = text
            free = start + len(text) + 2
    return [f"{'':>{margin}} └{''.join(line)}", f"{'':>{margin}}  {''.join(labels).rstrip()}"]


def step_text(step: float) -> str:
    return f"{step:,.0f}" if step < 10**7 else short_count(step)
