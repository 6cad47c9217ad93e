"""The figure of a sweep: a panel for each setting, a point for each trial."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from fledge.tracking.figure_style import BLUE, VERMILLION, save, styled, tidy
from fledge.tracking.panels import LABELS

COLUMNS = 3
PANEL_SIZE = (4.2, 2.9)
MAX_PLACES = 8  # on the x axis, for a setting with a few whole numbers


@styled
def scatter(
    tried: Mapping[str, Sequence[Any]], losses: Sequence[float], logarithmic: Collection[str], metric: str, folder: Path
) -> Path:
    """Draw the figure; the best trial is a diamond."""
    columns = min(len(tried), COLUMNS)
    rows = -(-len(tried) // columns)
    size = (PANEL_SIZE[0] * columns, PANEL_SIZE[1] * rows)
    sheet = Figure(size, layout="constrained")
    axes = sheet.subplots(rows, columns, squeeze=False, sharey=True)
    best = int(np.argmin(losses))
    for axis in axes.flat[len(tried) :]:
        axis.set_axis_off()
    for axis, (name, values) in zip(axes.flat, tried.items(), strict=False):
        x, ticks = _positions(values, logarithmic=name in logarithmic)
        if ticks:
            axis.set_xticks(range(len(ticks)), ticks)
        axis.plot(x, losses, "o", color=BLUE, alpha=0.6, markersize=4)
        axis.plot(x[best : best + 1], losses[best : best + 1], "D", color=VERMILLION, markersize=6)
        if name in logarithmic and len(set(values)) > 1:
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter(NullFormatter())
        axis.margins(0.1)
        axis.set_xlabel(name)
        tidy(axis)
    split, _, measure = metric.partition("/")
    for axis in axes[:, 0]:
        axis.set_ylabel(f"{split} {LABELS.get(measure, measure)}")
    return save(sheet, folder / "sweep.png")


def _positions(values: Sequence[Any], *, logarithmic: bool) -> tuple[list[float], list[str]]:
    """Where the values stand on the x axis, and the names of the places, if they are few: classes, or whole numbers."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    few = len(set(values)) <= MAX_PLACES and not any(isinstance(value, float) for value in values)
    if numbers and (logarithmic or not few):
        return [float(value) for value in values], []
    places = sorted(set(values)) if numbers else sorted(set(map(str, values)))
    return [float(places.index(value if numbers else str(value))) for value in values], [str(place) for place in places]
