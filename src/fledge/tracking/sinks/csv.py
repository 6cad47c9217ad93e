"""metrics.csv: one row per step, one column per metric. The first column is the step; empty: not measured."""

import math
from pathlib import Path

from fledge.core.errors import UserError
from fledge.core.files import write_atomic
from fledge.tracking.events import Event, Metrics
from fledge.tracking.sinks.base import RunFile, complete_lines, join_lines

METRICS = "metrics.csv"
STEP = "step"


class CSVSink:
    """Writes metrics.csv. Values of the same step share a row; a new metric becomes a new column.

    For a new column the whole file is rewritten atomically, once for each name.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / METRICS
        self._file = RunFile(self._path)
        if not (lines := complete_lines(self._path)):
            lines = [STEP]
            self._file.overwrite(0, join_lines(lines))
        self._columns = lines[0].split(",")
        self._row = dict(zip(self._columns, lines[-1].split(","), strict=False)) if lines[1:] else {}
        self._row_start = len(join_lines(lines[:-1]).encode())
        self._end = len(join_lines(lines).encode())

    def record(self, event: Event) -> None:
        if not isinstance(event, Metrics):
            return
        if self._row.get(STEP) != str(event.step):
            self._row, self._row_start = {STEP: str(event.step)}, self._end
        self._row |= {name: str(value) for name, value in event.values.items()}
        new = [name for name in self._row if name not in self._columns]
        self._columns += new
        line = join_lines([",".join(self._row.get(name, "") for name in self._columns)])
        if new:
            self._replace(line, len(new))
        else:
            self._file.overwrite(self._row_start, line)
        self._end = self._row_start + len(line.encode())

    def _replace(self, line: str, new_columns: int) -> None:
        """Rewrite the header and all rows with more columns; `line` is the current row."""
        _, *rows = self._path.read_bytes()[: self._row_start].decode().splitlines()
        above = join_lines([",".join(self._columns), *(row + "," * new_columns for row in rows)])
        self._file.replace(above + line)
        self._row_start = len(above.encode())

    def close(self) -> None:
        self._file.close()


class MetricsTable(dict[str, list[float]]):
    """Columns by name, `step` among them. Not measured is NaN; so is the whole column of a name that never occurs."""

    def __missing__(self, name: str) -> list[float]:
        return [math.nan] * len(self[STEP])

    @property
    def last_step(self) -> int:
        return int(max(self[STEP], default=0))

    def measured(self, name: str) -> list[float]:
        """The finite values of a metric, in order of the steps."""
        return [value for value in self[name] if math.isfinite(value)]


def read_metrics(folder: Path) -> MetricsTable:
    """Read metrics.csv, also while the run is alive; damaged rows are left out."""
    if not (folder / METRICS).exists():
        raise UserError(f"'{folder}' holds no {METRICS}", "give the folder of a run; 'fledge runs' lists them")
    columns, rows = _read_rows(folder / METRICS)
    numbers = [[float(cell or "nan") for cell in row] for row in rows]
    return MetricsTable({name: [row[place] for row in numbers] for place, name in enumerate(columns)})


def is_sampled(metrics: MetricsTable) -> bool:
    """Whether `val/loss` is that of a sample of the validation split."""
    return min(metrics.measured("val/fraction"), default=1.0) < 1


def rewind_metrics(folder: Path, step: int) -> None:
    """Remove all rows after `step`, and the columns that are empty without them."""
    if (folder / METRICS).exists():
        columns, rows = _read_rows(folder / METRICS)
        kept = [row for row in rows if float(row[0]) <= step]
        used = [place for place, name in enumerate(columns) if name == STEP or any(row[place] for row in kept)]
        write_atomic(folder / METRICS, join_lines(",".join(row[place] for place in used) for row in [columns, *kept]))


def _read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """The column names and the undamaged rows of metrics.csv. Without a header no row can be understood."""
    columns, *rows = [line.split(",") for line in complete_lines(path)] or [[STEP]]
    if columns[0] != STEP:
        return [STEP], []
    return columns, [row for row in rows if len(row) == len(columns) and are_numbers(row)]


def are_numbers(row: list[str]) -> bool:
    try:
        return math.isfinite(float(row[0])) and all(cell == "" or float(cell) is not None for cell in row)
    except ValueError:
        return False
