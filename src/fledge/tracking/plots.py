"""Figures from metrics.csv, of one run or of several: one for each metric. And the figure of a sweep."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only: no window, no display needed

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from fledge.core.errors import UserError
from fledge.tracking.sinks.csv import STEP, MetricsTable, is_sampled, read_metrics

SPLITS = ("train", "val", "val_whole", "test")  # `train/loss` and `val/loss` are curves of one figure
WHOLE = "val_whole"
LABELS = {
    "loss": "loss (nats per token)",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "step_seconds": "seconds per step",
    "tokens_per_second": "tokens per second",
    "bits_per_byte": "bits per byte",
}
NOT_DRAWN = {STEP, "train/tokens", "val/tokens", "val/fraction", "val/seconds", "val/loss_margin"}
PER_TOKEN = ("loss", "perplexity", "accuracy")  # cannot be compared between tokenizers
CUT = ("loss", "bits_per_byte", "perplexity")  # their first values would squash all others
CUT_SHARE = 0.05  # of the steps: what comes before may lie above the figure
COLUMNS = 3  # of the sheet with all figures
MAX_PLACES = 8  # on the x axis of a sweep's panel, for a setting with a few whole numbers


def draw(runs: Sequence[Path], folder: Path, *, same_tokenizer: bool = True) -> list[Path]:
    """Draw a figure for each metric, and `all.png` with all of them. Returns the files.

    Runs with different tokenizers are compared by their bits per byte: a token of one is not a token of the other.
    """
    tables = [(run.name, read_metrics(run)) for run in runs]
    panels = panels_of([table for _, table in tables])
    if not same_tokenizer:
        panels = {panel: names for panel, names in panels.items() if panel not in PER_TOKEN}
    if not panels:
        raise UserError(f"no metrics yet in '{runs[0]}'", "wait for the first step that is logged")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    rows = -(-len(panels) // COLUMNS)
    sheet, axes = plt.subplots(rows, COLUMNS, figsize=(5 * COLUMNS, 4 * rows), layout="constrained", squeeze=False)
    for axis, (panel, names) in zip(axes.flat, panels.items(), strict=False):
        _draw_panel(axis, tables, panel, names)
        single, own_axis = plt.subplots(figsize=(7, 4.2), layout="constrained")
        _draw_panel(own_axis, tables, panel, names)
        written.append(save(single, folder / f"{panel.replace('/', '-')}.png"))
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    return [*written, save(sheet, folder / "all.png")]


def panels_of(tables: Sequence[MetricsTable]) -> dict[str, list[str]]:
    """The figures, and the metrics in each: `loss` → `train/loss`, `val/loss`; `ppo/kl` → `ppo/kl`."""
    panels: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for table in tables for name in table if table.measured(name)):
        split, _, metric = name.partition("/")
        if name not in NOT_DRAWN and split != "val_best":
            panels.setdefault(metric if split in SPLITS else name, []).append(name)
    return panels


def _draw_panel(axis: Axes, tables: Sequence[tuple[str, MetricsTable]], panel: str, names: Sequence[str]) -> None:
    curves = []
    for number, (run, table) in enumerate(tables):
        for name in names:
            steps, values = np.array(table[STEP]), np.array(table[name])
            measured = np.isfinite(values)
            if not measured.any():
                continue
            split = name.partition("/")[0]
            color = f"C{number}" if len(tables) > 1 or split == "train" else "C1"
            label = split.replace(WHOLE, "val, whole split") if len(names) > 1 else ""
            if label == "val" and is_sampled(table):
                label = "val, sample (95 % interval)"
            label = ": ".join(part for part in (run if len(tables) > 1 else "", label) if part)
            axis.plot(steps[measured], values[measured], color=color, label=label, **_style(split, len(names)))
            margins = np.array(table[f"{name}_margin"])[measured]
            if np.isfinite(margins).any():
                interval = (values[measured] - margins, values[measured] + margins)
                axis.fill_between(steps[measured], *interval, color=color, alpha=0.2, linewidth=0)
            curves.append((steps[measured], values[measured]))
    axis.set_ylabel(LABELS.get(panel, panel) + (_cut_start(axis, curves) if panel in CUT else ""))
    if len(tables) > 1 or len(names) > 1:
        axis.legend(frameon=False, fontsize=8)
    axis.set_xlabel("step")
    tidy(axis)


def _style(split: str, curves: int) -> dict[str, Any]:
    if split == WHOLE:
        return {"marker": "*", "markersize": 11, "linestyle": "none"}
    if split != "train":
        return {"marker": "o", "markersize": 3}
    return {"linewidth": 1.0, "alpha": 0.5 if curves > 1 else 1.0}


def _cut_start(axis: Axes, curves: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> str:
    """Leave out the top of the figure where only the first steps are. Returns what the label says of it."""
    late = np.concatenate([values[steps >= CUT_SHARE * steps[-1]] for steps, values in curves])
    low, high, start = late.min(), late.max(), max(values.max() for _, values in curves)
    if start <= high + 0.25 * (high - low) or high == low:
        return ""
    margin = 0.08 * (high - low)
    axis.set_ylim(low - margin, high + margin)
    return f"; starts at {start:.3g}"


def scatter(
    tried: Mapping[str, Sequence[Any]], losses: Sequence[float], logarithmic: Collection[str], metric: str, folder: Path
) -> Path:
    """The figure of a sweep: a panel for each setting, a point for each trial, the best trial in red."""
    columns = min(len(tried), COLUMNS)
    rows = -(-len(tried) // columns)
    size = (5 * columns, 4 * rows)
    sheet, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, sharey=True)
    best = int(np.argmin(losses))
    for axis in axes.flat[len(tried) :]:
        axis.set_axis_off()
    for axis, (name, values) in zip(axes.flat, tried.items(), strict=False):
        x, ticks = _positions(values, logarithmic=name in logarithmic)
        if ticks:
            axis.set_xticks(range(len(ticks)), ticks)
        axis.plot(x, losses, "o", color="C0", alpha=0.6)
        axis.plot(x[best : best + 1], losses[best : best + 1], "o", color="C3")
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


def tidy(axis: Axes) -> None:
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
