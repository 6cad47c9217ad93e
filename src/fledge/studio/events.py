"""events.jsonl for the page: what was added since the page last looked, and everything that is not a metric.

A `Cursor` is a place in the file, and a checksum of the bytes before it. Where these have changed, the run was rolled
back or resumed from an earlier step, and what the page shows is to be loaded again.
"""

import threading
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fledge.tracking.sinks.jsonl import EVENTS, parse_event

Event = dict[str, Any]
PROBE_BYTES = 256
BLOCK_BYTES = 8 << 20
MAX_NEW_BYTES = 4 << 20  # sent at once; a page that missed more gets the rest with the next look
METRICS_LINE = b'{"event": "Metrics"'
CACHED_FILES = 64
MAX_OFFSET = 1 << 60  # no file is larger


@dataclass(frozen=True)
class Cursor:
    offset: int = 0
    probe: int = 0

    def __str__(self) -> str:
        return f"{self.offset}-{self.probe:08x}"

    @staticmethod
    def parse(text: str) -> "Cursor | None":
        offset, _, probe = text.partition("-")
        try:
            cursor = Cursor(int(offset), int(probe, 16))
        except ValueError:
            return None
        return cursor if 0 <= cursor.offset <= MAX_OFFSET else None


def end_of(folder: Path) -> Cursor:
    """The place behind the last complete line."""
    try:
        with (folder / EVENTS).open("rb") as file:
            size = file.seek(0, 2)
            start = max(size - (1 << 20), 0)  # longer than a line: a sample, for one
            file.seek(start)
            content = file.read(size - start)
    except OSError:
        return Cursor()
    content = content[: content.rfind(b"\n") + 1]
    return Cursor(start + len(content), _probe(content)) if content else Cursor()


def lines_after(folder: Path, cursor: Cursor, limit: int = MAX_NEW_BYTES) -> tuple[list[bytes], Cursor] | None:
    """The complete lines behind a place, at most about `limit` bytes of them; None: the file no longer begins so."""
    start = max(cursor.offset - PROBE_BYTES, 0)
    try:
        with (folder / EVENTS).open("rb") as file:
            file.seek(start)
            content = file.read(cursor.offset - start + limit)
    except OSError:
        return ([], cursor) if cursor == Cursor() else None
    before, new = content[: cursor.offset - start], content[cursor.offset - start :]
    if len(before) < cursor.offset - start or _probe(before) != cursor.probe:
        return None
    new = new[: new.rfind(b"\n") + 1]
    return new.split(b"\n")[:-1], Cursor(cursor.offset + len(new), _probe(before + new))


def _probe(content: bytes) -> int:
    return zlib.crc32(content[-PROBE_BYTES:])


class EventsCache:
    """The events of runs, without their metrics: of a million lines a few hundred remain."""

    def __init__(self) -> None:
        self._known: OrderedDict[Path, tuple[list[Event], Cursor]] = OrderedDict()
        self._lock = threading.Lock()

    def events(self, folder: Path) -> tuple[list[Event], Cursor]:
        with self._lock:
            events, cursor = self._known.get(folder, ([], Cursor()))
            while (found := lines_after(folder, cursor, BLOCK_BYTES)) is None or found[0]:
                if found is None:
                    events, cursor = [], Cursor()
                    continue
                lines, cursor = found
                parsed = (parse_event(line) for line in lines if not line.startswith(METRICS_LINE))
                events = [*events, *(event for event in parsed if event and event["event"] != "Metrics")]
            self._known[folder] = (events, cursor)
            self._known.move_to_end(folder)
            while len(self._known) > CACHED_FILES:
                self._known.popitem(last=False)
            return events, cursor
