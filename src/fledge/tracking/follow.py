"""Reads the events of a run from its folder while they are written, by this version of fledge or by another one.

    events = EventFile(folder)
    events.poll()   →  Poll(restarted=True, records=[…]): everything so far
    events.poll()   →  Poll(restarted=False, records=[…]): what came since

A run that is resumed, or that rolls back, rewrites the file: then everything is read again, and `restarted` says so.
Of a very large file, pieces of the middle are read: enough for a curve, and at once. An unfinished last line waits for
its end, and damaged lines and unknown events are left out.
"""

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, get_args

from fledge.tracking.events import Event
from fledge.tracking.sinks.jsonl import EVENTS, LARGEST, parse_event

KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Event)}
LARGE = 32 << 20  # bytes: of a larger file, pieces are read
PIECES, PIECE = 192, 48 << 10  # and their bytes; the last one is larger, as what is new says most
LAST_PIECE = 4 << 20

Record = Mapping[str, Any]  # a line of events.jsonl


@dataclass(frozen=True)
class Poll:
    restarted: bool  # the records are all of the run; else those since the last poll
    records: list[Record]
    sampled: bool = False  # only pieces of a large file were read


class EventFile:
    """whole: read all of a large file, too."""

    def __init__(self, folder: Path, *, whole: bool = False) -> None:
        self._path, self._whole = folder / EVENTS, whole
        self._inode, self._offset = -1, 0

    def poll(self) -> Poll:
        try:
            file = self._path.open("rb")
        except OSError:  # not there yet
            return Poll(False, [])
        with file:
            status = os.fstat(file.fileno())
            restarted = status.st_ino != self._inode or status.st_size < self._offset
            if restarted:
                self._inode, self._offset = status.st_ino, 0
            if sampled := restarted and status.st_size > LARGE and not self._whole:
                lines = list(self._pieces(file, status.st_size))
            else:
                lines = self._complete_lines(file)
        return Poll(restarted, [event for line in lines if (event := parse_event(line)) is not None], sampled)

    def _complete_lines(self, file: BinaryIO) -> list[str]:
        file.seek(self._offset)
        content = file.read()
        end = content.rfind(b"\n") + 1
        self._offset += end
        return content[:end].decode("utf-8", "replace").split("\n")[:-1]

    def _pieces(self, file: BinaryIO, size: int) -> Iterator[str]:
        """The lines of evenly spaced pieces, and all of the last one. A piece begins and ends within a line."""
        last = size - LAST_PIECE
        for number in range(PIECES):
            start = last * number // PIECES
            file.seek(start)
            whole = file.read(min(PIECE, last - start)).decode("utf-8", "replace").split("\n")[:-1]
            yield from whole if number == 0 else whole[1:]
        file.seek(last)
        self._offset = last + len(file.readline())
        yield from self._complete_lines(file)


def to_event(record: Record) -> Event | None:
    """The event of a record; None where its kind is not known, as of a newer version, or a field is of another type."""
    kind = KINDS.get(str(record["event"]))
    if kind is None:
        return None
    values = {field.name: record[field.name] for field in dataclasses.fields(kind) if field.name in record}
    for field in dataclasses.fields(kind):
        if field.type in (float, "float") and values.get(field.name, 0.0) is None:
            values[field.name] = math.nan  # JSON has no NaN
    return kind(**values) if _fits(kind, values) else None


def _fits(kind: type[Any], values: dict[str, Any]) -> bool:
    """Whether the values are of the types that a view formats: a damaged file must not break it."""
    for field in dataclasses.fields(kind):
        value = values.get(field.name, field.default)
        if field.type in (int, float) and (value is None or not _is_number(value)):
            return False
        if field.type is str and not isinstance(value, str):
            return False
    metrics = values.get("values")
    if metrics is not None:
        if not isinstance(metrics, dict):
            return False
        values["values"] = {str(k): math.nan if v is None else float(v) for k, v in metrics.items() if _is_number(v)}
    pair = values.get("skipped_batches", values.get("samples", (0, 0)))
    return isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(each, int) for each in pair)


def _is_number(value: object) -> bool:
    return value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < LARGEST)
