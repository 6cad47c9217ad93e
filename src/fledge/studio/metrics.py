"""metrics.csv for the page: kept in memory, read on from where reading stopped, and reduced to what a curve can show.

A run of a million rows has a file of a hundred megabytes. It is read once; after that only the new bytes are. Of a
curve, each of a few hundred intervals of steps keeps its first, lowest, highest and last point, so that no spike is
lost.
"""

import math
import os
import threading
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fledge.core.errors import UserError
from fledge.tracking.curves import visible_points
from fledge.tracking.metrics_table import Array, Table, joined, parse_rows
from fledge.tracking.sinks.csv import METRICS, STEP

POINTS = 1500  # of a curve
PROBE_BYTES = 256  # before the place where reading stopped: unchanged, the file has only grown
MAX_CACHED, MAX_CACHED_BYTES = 32, 1 << 30


class MetricsCache:
    """The tables of the runs that were looked at last."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, GrowingFile] = OrderedDict()
        self._lock = threading.Lock()

    def table(self, folder: Path) -> Table:
        """The metrics of a run as they are now; empty where there are none yet."""
        path = folder / METRICS
        with self._lock:
            file = self._files.setdefault(path, GrowingFile(path))
            self._files.move_to_end(path)
        with file.lock:
            table = file.read()
        with self._lock:
            while len(self._files) > MAX_CACHED or (len(self._files) > 1 and self._bytes() > MAX_CACHED_BYTES):
                self._files.popitem(last=False)
        return table

    def _bytes(self) -> int:
        return sum(file.table.bytes for file in self._files.values())


class GrowingFile:
    """One metrics.csv. Its last row may still change, as a step has several events; those above it do not.

    The file is read anew where it was replaced or cut: by a new column, a rollback, or a resumed run.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.lock, self.table = path, threading.Lock(), Table()
        self._reset()

    def _reset(self) -> None:
        self._names: list[str] = []
        self._end = 0  # of all rows but the last
        self._probe = 0
        self._above = Table()
        self._seen: tuple[int, int, int] | None = None

    def read(self) -> Table:
        try:
            with self.path.open("rb") as file:
                stat = os.fstat(file.fileno())  # of what is read; the path may lead to another file by now
                seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
                if seen == self._seen:
                    return self.table
                file.seek(max(self._end - PROBE_BYTES, 0))
                new, known = file.read(), min(self._end, PROBE_BYTES)
                if not self._names or len(new) < known or zlib.crc32(new[:known]) != self._probe:
                    self._reset()
                    file.seek(0)
                    new, known = file.read(), 0
        except OSError:
            self._reset()
            self.table = Table()
            return self.table
        self._add(new, known)
        self._seen = seen
        return self.table

    def _add(self, content: bytes, known: int) -> None:
        """Parse what follows the first `known` bytes, without a copy of it: it may be a hundred megabytes."""
        if not self._names:
            known = content.find(b"\n") + 1
            self._names = content[: known - 1].decode("utf-8", "replace").split(",") if known else []
            self._end = known
            if self._names[:1] != [STEP]:
                self._names, self.table = [], Table()
                return
        end = content.rfind(b"\n") + 1  # the last line may be growing
        last = max(content.rfind(b"\n", 0, max(end - 1, 0)) + 1, known)  # the start of the last complete line
        self._end += last - known
        self._probe = zlib.crc32(content[max(last - PROBE_BYTES, 0) : last])
        self.table = joined(self._above, parse_rows(self._names, memoryview(content)[known:end]))
        last_row = parse_rows(self._names, memoryview(content)[last:end])  # none where it is damaged
        self._above = self.table.first(self.table.rows - last_row.rows)


@dataclass(frozen=True)
class Curve:
    """The points of a metric; a value of None is a gap: it was measured, and is not a number."""

    steps: list[float]
    values: list[float | None]


def curve_of(table: Table, name: str, low: float, high: float, points: int = POINTS, *, log: bool = False) -> Curve:
    """A metric from step `low` to `high`. log: the intervals are equal on a logarithmic axis of steps."""
    if name not in table.columns:
        raise UserError(f"this run has no metric '{name}'", f"it has: {', '.join(table.names) or 'none yet'}")
    wanted = table.measured[name] & (table.columns[STEP] >= low) & (table.columns[STEP] <= high)
    steps, values = table.columns[STEP][wanted], table.columns[name][wanted]
    kept = visible_points(np.log10(np.maximum(steps, 1)) if log else steps, values, points)
    return Curve(steps[kept].tolist(), [value if math.isfinite(value) else None for value in values[kept].tolist()])


def training_seconds(table: Table) -> Array:
    """For each row: how long its steps took, from the first on; the step time of a row stands for those before it."""
    steps, seconds = table.columns[STEP], table.columns.get("train/step_seconds")
    if seconds is None:
        return np.full(len(steps), np.nan)
    known = np.isfinite(seconds)
    taken = np.cumsum(seconds[known] * np.diff(steps[known], prepend=0.0))
    return np.interp(steps, np.append(0.0, steps[known]), np.append(0.0, taken))
