"""Figures from metrics.csv: loss, learning rate, gradient, step time, throughput, for one run or several.

And of a sweep: what each setting did to the loss.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only: no window, no display needed

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from fledge.tracking.sinks import read_metrics

Metrics = list[tuple[str, dict[str, list[float]]]]  # of each run its name and its columns

PANELS = {
    "loss": ("train_loss", "loss (nats per token)"),
    "learning-rate": ("lr", "learning rate"),
    "gradient-norm": ("grad_norm", "gradient norm"),
    "step-time": ("step_seconds", "seconds a step"),
    "throughput": ("tokens_per_second", "tokens per second"),
}


def draw(runs: list[Path], folder: Path) -> list[Path]:
    """One picture a panel, and all of them on one sheet. Returns what was written."""
    metrics = [(run.name, read_metrics(run)) for run in runs]
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    sheet, axes = plt.subplots(2, 3, figsize=(15, 8), layout="constrained")
    for axis, name in zip(axes.flat, PANELS, strict=False):
        _panel(axis, metrics, name)
        single, own = plt.subplots(figsize=(7, 4.2), layout="constrained")
        _panel(own, metrics, name)
        written.append(folder / f"{name}.png")
        single.savefig(written[-1], dpi=120)
        plt.close(single)
    axes.flat[-1].set_axis_off()
    written.append(folder / "all.png")
    sheet.savefig(written[-1], dpi=110)
    plt.close(sheet)
    return written


def _panel(axis: Axes, metrics: Metrics, name: str) -> None:
    column, label = PANELS[name]
    for number, (run, columns) in enumerate(metrics):
        color = f"C{number}"
        steps, values = np.array(columns["step"]), np.array(columns[column])
        there = np.isfinite(values)
        if name == "loss":
            axis.plot(steps[there], values[there], color=color, alpha=0.35, linewidth=0.9, label=f"{run}: train")
            judged = np.array(columns["val_loss"])
            seen = np.isfinite(judged)
            axis.plot(steps[seen], judged[seen], "o-", color=color, markersize=3, label=f"{run}: validation")
        else:
            axis.plot(steps[there], values[there], color=color, linewidth=1.1, label=run)
    axis.set_xlabel("step")
    axis.set_ylabel(label)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    if len(metrics) > 1 or name == "loss":
        axis.legend(frameon=False, fontsize=8)


def scatter(
    tried: Mapping[str, Sequence[Any]], losses: Sequence[float], logarithmic: Collection[str], metric: str, folder: Path
) -> Path:
    """A panel for each setting that was tried: a point for each trial, the best in another colour."""
    columns = min(len(tried), 3)
    rows = -(-len(tried) // columns)
    size = (5 * columns, 4 * rows)
    sheet, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, sharey=True)
    best = int(np.argmin(losses))
    for axis in axes.flat[len(tried) :]:
        axis.set_axis_off()
    for axis, (name, values) in zip(axes.flat, tried.items(), strict=False):
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        places = list(values) if numbers else [str(value) for value in values]
        axis.plot(places, losses, "o", color="C0", alpha=0.6)
        axis.plot(places[best : best + 1], losses[best : best + 1], "o", color="C3")
        if name in logarithmic:
            axis.set_xscale("log")
        axis.set_xlabel(name)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel(metric)
    sheet.savefig(folder / "sweep.png", dpi=120)
    plt.close(sheet)
    return folder / "sweep.png"
