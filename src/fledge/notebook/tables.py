"""Metrics, runs and figures as tables and a picture in HTML."""

import base64
import html
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fledge.runs.summary import RunSummary
from fledge.tracking.sinks.csv import STEP, MetricsTable

MAX_TABLE_ROWS = 12  # shown in a notebook


class Metrics(MetricsTable):
    """The metrics of a run, shown as a table of its last rows."""

    def _repr_html_(self) -> str:
        names = [STEP, *(name for name in self if name != STEP)]
        rows = zip(*(self[name][-MAX_TABLE_ROWS:] for name in names), strict=True)
        return _html_table(names, ([_cell(value) for value in row] for row in rows))


class RunList(list[RunSummary]):
    """Summaries of runs, shown as a table."""

    def _repr_html_(self) -> str:
        return summary_table(self)


class Figures(list[Path]):
    """PNG files; the last one, which holds all curves, is shown."""

    def _repr_html_(self) -> str:
        picture = base64.b64encode(self[-1].read_bytes()).decode()
        return f'<img src="data:image/png;base64,{picture}" alt="{html.escape(self[-1].name)}">'


def summary_table(runs: Iterable[RunSummary]) -> str:
    names = ["run", "state", "parameters", "step", "steps", "val_loss", "bits_per_byte", "started"]
    return _html_table(names, ([_cell(getattr(run, name)) for name in names] for run in runs))


def _cell(value: Any) -> str:
    """4.8553 · 122,880 · nothing for what was not measured"""
    if isinstance(value, float) and not math.isfinite(value):
        return "" if math.isnan(value) else str(value)
    if isinstance(value, float):
        return f"{value:,.0f}" if value == int(value) or abs(value) >= 10_000 else f"{value:.5g}"
    return f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)


def _html_table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
