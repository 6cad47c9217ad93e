"""events.jsonl: every event, one JSON object per line: {"event": "Metrics", "time": …, "step": 10, "values": {…}}."""

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from fledge.core.files import to_json, write_atomic
from fledge.tracking.events import Event, RolledBack
from fledge.tracking.sinks.base import RunFile, complete_lines, join_lines

EVENTS = "events.jsonl"
LARGEST = 1 << 53  # larger numbers in place of a step or a time are damage: no float holds them
DECODER = json.JSONDecoder(parse_constant=lambda _: None)
# The fields that each kind of event must have
REQUIRED = {
    kind.__name__: {field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING}
    for kind in get_args(Event)
}


class JSONLSink:
    def __init__(self, folder: Path) -> None:
        self._file = RunFile(folder / EVENTS)

    def record(self, event: Event) -> None:
        line = {"event": type(event).__name__, "time": round(time.time(), 3), **dataclasses.asdict(event)}
        self._file.append(to_json(line) + "\n")

    def close(self) -> None:
        self._file.close()


def read_events(folder: Path, *kinds: type[Event]) -> Iterator[dict[str, Any]]:
    """Read events.jsonl, oldest first, also while the run is alive; damaged lines are left out.

    kinds: only these are wanted, which is much faster than reading all.
    """
    names = [kind.__name__ for kind in kinds]
    quoted = [f'"{name}"' for name in names]
    with contextlib.suppress(FileNotFoundError):
        for line in complete_lines(folder / EVENTS):
            if names and not any(name in line for name in quoted):
                continue
            if (event := parse_event(line)) is not None and (not names or event["event"] in names):
                yield event


def rewind_events(folder: Path, step: int, keep: tuple[type[Event], ...] = ()) -> None:
    """Remove all events after `step`, except those of the kinds in `keep`."""
    kept = {kind.__name__ for kind in keep}
    if (folder / EVENTS).exists():
        lines = (line for line in complete_lines(folder / EVENTS) if _rewind_key(line, kept) <= step)
        write_atomic(folder / EVENTS, join_lines(lines))


def _rewind_key(line: str, kept: set[str]) -> float:
    """The step of an event, as rewinding sees it."""
    if (event := parse_event(line)) is None:
        return math.inf
    if event["event"] in kept:
        return -math.inf
    after_checkpoint = event["event"] == RolledBack.__name__  # it happened after the checkpoint of its step was saved
    return float(event["step"]) + after_checkpoint / 2


def parse_event(line: str | bytes) -> dict[str, Any] | None:
    """None: the line is damaged. What cannot be sent on is replaced: NaN by null, halves of surrogate pairs by `?`."""
    try:
        text = line if isinstance(line, str) else line.decode("utf-8", "replace")
        event = DECODER.decode(text)
        if "\\u" in text:
            event = json.loads(json.dumps(event, ensure_ascii=False).encode(errors="replace"))
        numbers = isinstance(event["step"], int) and max(abs(event["step"]), abs(event.get("time") or 0)) < LARGEST
        complete = REQUIRED.get(event["event"], set()) <= event.keys() and numbers
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return event if complete else None
