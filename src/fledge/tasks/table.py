"""The results of tasks as text for people: 80 columns."""

import math
from collections.abc import Iterator, Sequence

from fledge.core.formatting import counted, shorten
from fledge.tasks.results import TaskDifference, TaskResult

NAME, WIDTH = 26, 80
METRICS = {
    "accuracy": "",
    "accuracy_per_byte": "accuracy, by the log-probability per byte",
    "accuracy_per_token": "accuracy, by the log-probability per token",
}


def task_table(results: Sequence[TaskResult]) -> str:
    """task | score ± standard error | 95 % interval | chance | items, and below what a task is."""
    head = f"  {'task':{NAME}} {'score':>6}    s.e.   95 % interval   chance   items"
    notes = "  s.e.: standard error. ▲: better than chance, by the interval, ▼: worse."
    if any(each.skipped for each in results):
        notes += "\n  skipped: not in the tokenizer's vocabulary, or longer than the context."
    return "\n".join(["tasks", head, *(line for each in results for line in _rows(each)), notes])


def _rows(result: TaskResult) -> Iterator[str]:
    interval = " " * 15 if result.low is None else f"{number(result.low)} … {number(result.high)}"
    chance = " " * 6 if result.chance is None else number(result.chance)
    error = " " * 6 if result.stderr is None else f"±{result.stderr:.3f}"
    mark = {True: "▲", False: "▼" if _is_worse(result) else " ", None: " "}[result.beats_chance]
    numbers = f"{number(result.score):>6} {error:>7}  {interval:>15} {mark} {chance:>6}  {result.items:>6,}"
    yield f"  {shorten(result.task, NAME):{NAME}} {numbers}".rstrip()
    skipped = f"{counted(result.skipped, 'item')} skipped" if result.skipped else ""
    metric = METRICS.get(result.metric, result.metric.replace("_", " "))
    if about := "; ".join(filter(None, (skipped, metric, result.about))):
        yield f"      {shorten(about, WIDTH - 6)}"


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
    head = f"  {f'minus {other}':{NAME}}   difference   95 % interval     p-value"
    notes = "  by a paired bootstrap over the items. ▲: significantly better, ▼: worse."
    return "\n".join([head, *map(_difference_row, differences), notes])


def _difference_row(row: TaskDifference) -> str:
    found = row.difference
    mark = ("▲" if (found.difference > 0) == row.higher_is_better else "▼") if found.is_significant else " "
    interval = "  too few items" if math.isnan(found.low) else f"{found.low:+.4f} … {found.high:+.4f}"
    p_value = "" if math.isnan(found.p_value) else "< 0.001" if found.p_value < 0.001 else f"{found.p_value:7.3f}"
    return f"  {shorten(row.task, NAME):{NAME}} {mark} {found.difference:+8.4f}  {interval:18} {p_value}".rstrip()
