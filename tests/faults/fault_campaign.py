"""How many trials, and the table of results.

pytest tests/faults                        a tenth
FLEDGE_FAULTS=whole pytest tests/faults    everything: `make faults`
"""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import pytest

WHOLE = os.environ.get("FLEDGE_FAULTS") == "whole"
ROW = "faults"  # the property of a test that goes into the table
Tell = Callable[..., None]


def share(whole: int) -> int:
    """The number of trials now, of `whole` in the whole campaign."""
    return whole if WHOLE else max(1, whole // 10)


def teller(record_property: Callable[[str, object], None]) -> Tell:
    """`tell("kills", "step", 48)`. Of one name, integers are summed, of floats the largest is kept, strings replace."""
    return lambda table, name, value: record_property(ROW, json.dumps([table, name, value]))


def merged(before: Any, value: Any) -> Any:
    if isinstance(value, int):
        return before + value
    return max(before, value) if isinstance(value, float) else value


def tables(reports: Iterable[pytest.TestReport]) -> list[str]:
    told: dict[str, dict[str, int | float | str]] = defaultdict(dict)
    for report in reports:
        for key, row in report.user_properties:
            if key == ROW:
                table, name, value = json.loads(str(row))
                told[table][name] = merged(told[table][name], value) if name in told[table] else value
    lines = []
    for table in sorted(told):
        lines += ["", table, *(f"  {name:<44} {value:>12}" for name, value in sorted(told[table].items()))]
    return lines
