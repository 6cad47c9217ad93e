"""The results of tasks as text for people: 80 columns."""

import math
from collections.abc import Iterator, Sequence

from fledge.core.formatting import shorten
from fledge.tasks.results import TaskDifference, TaskResult

NAME, WIDTH = 26, 80


def task_table(results: Sequence[TaskResult]) -> str:
    """task | score ± standard error | 95 % interval | chance | items, and below what a task is."""
    head = f"  {'task':{NAME}} {'score':>6}    s.e.   95 % interval   chance   items"
    notes = "  s.e.: standard error. ▲: better than chance, ▼: worse, as the interval excludes it."
    return "\n".join(["tasks", head, *(line for each in results for line in _rows(each)), notes])


def _rows(result: TaskResult) -> Iterator[str]:
    interval = " " * 15 if result.low is None else f"{number(result.low)} … {number(result.high)}"
    chance = " " * 6 if result.chance is None else number(result.chance)
    error = " " * 6 if result.stderr is None else f"±{result.stderr:.3f}"
    mark = {True: "▲", False: "▼" if _is_worse(result) else " ", None: " "}[result.beats_chance]
    items = f"{result.items:,}" if not result.skipped else f"{result.items:,} (+{result.skipped:,} skipped)"
    numbers = f"{number(result.score):>6} {error:>7}  {interval:>15} {mark} {chance:>6}  {items:>5}"
    yield f"  {shorten(result.task, NAME):{NAME}} {numbers}".rstrip()
    metric = "" if result.metric == "accuracy" else f"{result.metric}; "
    if about := f"{metric}{result.about}".rstrip("; "):
        yield f"      {about}"


def _is_worse(result: TaskResult) -> bool:
    low, high, chance = result.low or 0.0, result.high or 0.0, result.chance or 0.0
    return high < chance if result.higher_is_better else low > chance


def number(value: float | None) -> str:
    """Six characters."""
    if value is None or math.isnan(value):
        return "     –"
    return f"{value:6.4f}" if abs(value) < 10 else f"{value:6.4g}"


def difference_table(other: str, differences: Sequence[TaskDifference]) -> str:
    """How much better than the other run, by a paired bootstrap over the items that both were asked."""
    lines = [
        f"  {shorten(each.task, NAME):{NAME}} {each.difference.difference:+.4f}"
        f"  [{each.difference.low:+.4f}, {each.difference.high:+.4f}]  p = {each.difference.p_value:.3f}"
        for each in differences
    ]
    return "\n".join([f"minus {other}: difference of the scores, 95 % interval (paired bootstrap)", *lines])
