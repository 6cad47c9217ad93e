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

from fledge.core.errors import UserError
from fledge.tracking.sinks.csv import STEP, MetricsTable, read_metrics

SPLITS = ("train", "val", "test")  # `train/loss` and `val/loss` are curves of one figure
LABELS = {
    "loss": "loss (nats per token)",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "step_seconds": "seconds per step",
    "tokens_per_second": "tokens per second",
    "bits_per_byte": "bits per byte",
}
NOT_DRAWN = {STEP, "train/tokens", "val/seconds"}
COLUMNS = 3  # of the sheet with all figures


def draw(runs: Sequence[Path], folder: Path) -> list[Path]:
    """Draw a figure for each metric, and `all.png` with all of them. Returns the files."""
    tables = [(run.name, read_metrics(run)) for run in runs]
    panels = panels_of([table for _, table in tables])
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
        written.append(_save(single, folder / f"{panel.replace('/', '-')}.png"))
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    return [*written, _save(sheet, folder / "all.png")]


def panels_of(tables: Sequence[MetricsTable]) -> dict[str, list[str]]:
    """The figures, and the metrics in each: `loss` → `train/loss`, `val/loss`; `ppo/kl` → `ppo/kl`."""
    panels: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for table in tables for name in table if table.measured(name)):
        split, _, metric = name.partition("/")
        if name not in NOT_DRAWN:
            panels.setdefault(metric if split in SPLITS else name, []).append(name)
    return panels


def _draw_panel(axis: Axes, tables: Sequence[tuple[str, MetricsTable]], panel: str, names: Sequence[str]) -> None:
    for number, (run, table) in enumerate(tables):
        for name in names:
            steps, values = np.array(table[STEP]), np.array(table[name])
            measured = np.isfinite(values)
            split = name.partition("/")[0]
            curve: dict[str, Any] = {"marker": "o", "markersize": 3} if split != "train" else {"linewidth": 1.0}
            if split == "train" and len(names) > 1:
                curve["alpha"] = 0.35
            label = f"{run}: {split}" if len(names) > 1 else run
            axis.plot(steps[measured], values[measured], color=f"C{number}", label=label, **curve)
    axis.set_ylabel(LABELS.get(panel, panel))
    if len(tables) > 1 or len(names) > 1:
        axis.legend(frameon=False, fontsize=8)
    axis.set_xlabel("step")
    _tidy(axis)


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
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        x = list(values) if numbers else [str(value) for value in values]
        axis.plot(x, losses, "o", color="C0", alpha=0.6)
        axis.plot(x[best : best + 1], losses[best : best + 1], "o", color="C3")
        if name in logarithmic:
            axis.set_xscale("log")
        axis.set_xlabel(name)
        _tidy(axis)
    for axis in axes[:, 0]:
        axis.set_ylabel(metric)
    return _save(sheet, folder / "sweep.png")


def _tidy(axis: Axes) -> None:
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
