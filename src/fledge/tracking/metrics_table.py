"""Rows of metrics.csv as NumPy arrays: parsed by Arrow, a million in a second, or cell by cell where they are odd.

parse_rows(["step", "train/loss"], memoryview(b"1,5.5\\n2,\\n"))   →  columns, and which cells were measured
"""

import re
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv

from fledge.tracking.sinks.csv import STEP, are_numbers

Array = NDArray[np.float64]
ARROW_BYTES = 64_000  # of content from which on Arrow is faster


@dataclass
class Table:
    """The rows of a metrics.csv. An empty cell is NaN, and not `measured`."""

    columns: dict[str, Array] = field(default_factory=lambda: {STEP: np.empty(0)})
    measured: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The metrics with at least one measured value, in the order of their columns."""
        return [name for name, cells in self.measured.items() if name != STEP and cells.any()]

    @property
    def rows(self) -> int:
        return len(self.columns[STEP])

    def first(self, rows: int) -> "Table":
        """Views of the first rows."""
        return Table(
            {name: values[:rows] for name, values in self.columns.items()},
            {name: cells[:rows] for name, cells in self.measured.items()},
        )

    @property
    def bytes(self) -> int:
        return sum(values.nbytes for values in (*self.columns.values(), *self.measured.values()))


def joined(above: Table, below: Table) -> Table:
    if not above.rows:
        return below
    if not below.rows:
        return above
    return Table(
        {name: np.concatenate((values, below.columns[name])) for name, values in above.columns.items()},
        {name: np.concatenate((values, below.measured[name])) for name, values in above.measured.items()},
    )


def parse_rows(names: list[str], content: memoryview) -> Table:
    """Complete lines → the undamaged rows, exactly those that `read_metrics` reads."""
    table = _parse_with_arrow(names, content) if len(content) >= ARROW_BYTES else None
    return table or _parse_slowly(names, content)


def _parse_with_arrow(names: list[str], content: memoryview) -> Table | None:
    """None where a cell is not a number."""
    if re.search(b"\r", content) or len(set(names)) < len(names):  # Arrow takes a \r for the end of a line
        return None
    try:
        rows = csv.read_csv(
            pa.BufferReader(pa.py_buffer(content)),
            read_options=csv.ReadOptions(column_names=names),
            parse_options=csv.ParseOptions(quote_char=False, invalid_row_handler=lambda _: "skip"),
            convert_options=csv.ConvertOptions(column_types=dict.fromkeys(names, pa.float64()), null_values=[""]),
        )
    except pa.ArrowInvalid:
        return None
    measured = {name: np.concatenate([valid_cells(chunk) for chunk in rows[name].chunks]) for name in names}
    columns = {name: np.concatenate([cells(chunk) for chunk in rows[name].chunks]) for name in names}
    for name, valid in measured.items():
        columns[name][~valid] = np.nan
    return Table(columns, measured) if np.isfinite(columns[STEP]).all() else None


def cells(chunk: pa.Array) -> Array:
    """Without Arrow's own `to_numpy`, which imports pandas where a cell is empty: a second before the first curve."""
    return np.frombuffer(chunk.buffers()[1], np.float64, len(chunk), 8 * chunk.offset)


def valid_cells(chunk: pa.Array) -> NDArray[np.bool_]:
    bits = chunk.buffers()[0]
    if bits is None:
        return np.ones(len(chunk), np.bool_)
    return np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")[chunk.offset :][: len(chunk)].view(np.bool_)


def _parse_slowly(names: list[str], content: memoryview) -> Table:
    lines = [line.split(",") for line in bytes(content).decode("utf-8", "replace").split("\n")[:-1]]
    rows = [row for row in lines if len(row) == len(names) and are_numbers(row)]
    cells = {name: [row[place] for row in rows] for place, name in enumerate(names)}
    return Table(
        {name: np.array([float(cell or "nan") for cell in column]) for name, column in cells.items()},
        {name: np.array([cell != "" for cell in column], dtype=np.bool_) for name, column in cells.items()},
    )
