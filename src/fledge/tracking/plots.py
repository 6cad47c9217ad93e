"""Figures from metrics.csv, of one run or of several: one for each metric, and a sheet with all of them."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from fledge.core.errors import UserError
from fledge.core.progress import notice
from fledge.tracking.curves import XAxis, read_columns, smooth, visible_points, x_values
from fledge.tracking.events import RolledBack
from fledge.tracking.figure_style import BLACK, COLORS, HEIGHT, LINES, MARKERS, WIDTH, save, save_all, styled, tidy
from fledge.tracking.panels import Curve, Panel, RunCurves, panels_of, shown_range
from fledge.tracking.sinks.csv import METRICS, STEP
from fledge.tracking.sinks.jsonl import read_events

COLUMNS = 3  # of the sheet with all figures
PANEL_SIZE = (4.2, 2.9)  # on that sheet, in inches
EXACT = ("lr",)  # not measured, so not smoothed
MANY_LAYERS = 8  # more become a heat map
MAX_MARKERS = 30  # of a curve
MAX_COLUMNS, MAX_NAMES = 400, 12  # of a heat map
LABEL_WIDTH = 36  # characters of a line
MANY_ENTRIES = 6  # more stand below the figure
X_LABELS = {"step": "step", "tokens": "tokens trained on", "time": "hours of training"}
HOUR = 3600
SHORT = 600.0  # seconds of training that are shown in seconds, or minutes, instead of hours


@dataclass(frozen=True)
class PlotStyle:
    x: XAxis = "step"
    log: str = ""  # the logarithmic axes: "x", "y" or "xy"
    smooth: float = 0.0  # of training curves: the share of what came before, 0 to 1
    formats: tuple[str, ...] = ("png",)


BY_STEP = PlotStyle()


@dataclass(frozen=True)
class _Drawing:
    """What the figures of these runs share."""

    runs: Sequence[RunCurves]
    rollbacks: Sequence[Sequence[float]]  # of each run: where it went back
    style: PlotStyle
    x_label: str


@styled
def draw(runs: Sequence[Path], folder: Path, *, same_tokenizer: bool = True, style: PlotStyle = BY_STEP) -> list[Path]:
    """Draw a figure for each metric, and `all.png` with all of them. Returns the files, that one last.

    Runs with different tokenizers are compared by their bits per byte: a token of one is not a token of the other.
    """
    drawing = _open(runs, style)
    panels = panels_of(drawing.runs, same_tokenizer=same_tokenizer)
    if not panels:
        raise UserError(f"no metrics yet in '{runs[0]}'", "wait for the first step that is logged")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    rows = -(-len(panels) // COLUMNS)
    size = (PANEL_SIZE[0] * min(COLUMNS, len(panels)), PANEL_SIZE[1] * rows)
    sheet = Figure(size, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    axes = sheet.subplots(rows, min(COLUMNS, len(panels)), squeeze=False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        _draw_panel(axis, panel, drawing, on_sheet=True)
        single = Figure((WIDTH, HEIGHT), layout="constrained")
        _draw_panel(single.subplots(), panel, drawing)
        written += save_all(single, folder / panel.name, style.formats)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    if len(runs) > 1:
        sheet.legend(handles=_run_handles(drawing.runs), loc="outside lower center", ncols=4)
    return [*written, *save_all(sheet, folder / "all", style.formats, dpi=120)]


def _open(folders: Sequence[Path], style: PlotStyle) -> _Drawing:
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [f"{folder.parent.name}/{folder.name}" for folder in folders]
    names = [f"{name} ({names[:n].count(name) + 1})" if name in names[:n] else name for n, name in enumerate(names)]
    runs, rollbacks, unit = [], [], 1.0
    for name, folder in zip(names, folders, strict=True):
        if not (folder / METRICS).exists():
            raise UserError(f"'{folder}' holds no {METRICS}", "give the folder of a run; 'fledge runs' lists them")
        columns = read_columns(folder)
        if len(folders) > 1 and not len(columns[STEP]):
            notice(f"warning: '{name}' has no metrics yet, and is left out")
        x = x_values(folder, columns, style.x)
        if len(columns[STEP]) and not np.isfinite(x).any():
            raise UserError(f"'{name}' has no record of its {style.x}", "draw it by step: leave --x out")
        steps = [event["step"] for event in read_events(folder, RolledBack)]
        runs.append(RunCurves(name, columns, x))
        rollbacks.append(list(np.interp(steps, columns[STEP], x)) if steps and len(x) else [])
    label = X_LABELS[style.x]
    if style.x == "time":
        longest = max((float(run.x.max()) for run in runs if len(run.x)), default=0.0)
        unit, word = (HOUR, "hours") if longest > 2 * HOUR else (60, "minutes") if longest > SHORT else (1, "seconds")
        label = f"{word} of training"
        runs = [replace(run, x=run.x / unit) for run in runs]
    return _Drawing(runs, [[place / unit for place in places] for places in rollbacks], style, label)


def _draw_panel(axis: Axes, panel: Panel, drawing: _Drawing, *, on_sheet: bool = False) -> None:
    axis.set_xlabel(drawing.x_label)
    y_label = textwrap.fill(panel.label, LABEL_WIDTH)
    axis.set_ylabel(y_label)
    log_x, log_y = "x" in drawing.style.log, "y" in drawing.style.log and bool((panel.all_y() > 0).all())
    if panel.layers and len(panel.curves) > MANY_LAYERS:
        _draw_heat_map(axis, panel, log_y=log_y)
        return
    for number, curve in enumerate(panel.curves):
        shared = 1 if panel.one_run else len(drawing.runs)
        look = _layer_look(number, panel) if panel.layers else _look(number, curve, panel, shared)
        _draw_curve(axis, curve, look, drawing, panel)
    if len(drawing.runs) == 1:
        said = not on_sheet or panel.name == "loss"
        for number, place in enumerate(drawing.rollbacks[0]):
            label = "rolled back" if said and not number else ""
            axis.axvline(place, color="0.5", linestyle=":", linewidth=0.9, label=label)
    if log_x:
        axis.set_xscale("log")
    elif drawing.style.x == "tokens":
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    if panel.name == "tokens_per_second" and not log_y:
        axis.yaxis.set_major_formatter(EngFormatter(sep=""))
    if log_y:
        axis.set_yscale("log")
    elif start := _cut_start(axis, panel):
        axis.set_ylabel(y_label + start)
    tidy(axis)
    _add_legend(axis, panel, drawing, on_sheet=on_sheet)


def _draw_curve(axis: Axes, curve: Curve, look: dict[str, Any], drawing: _Drawing, panel: Panel) -> None:
    style, y, color = drawing.style, curve.y, look["color"]
    places = np.log10(np.maximum(curve.x, 1e-9)) if "x" in style.log else curve.x
    if style.smooth and curve.kind == "training" and len(y) > 2 and panel.name not in EXACT:
        seen = visible_points(places, y)
        axis.plot(curve.x[seen], y[seen], color=color, alpha=0.25, linewidth=0.8)
        y, look = smooth(y, style.smooth), look | {"alpha": 1.0}
    seen = visible_points(places, y)
    axis.plot(curve.x[seen], y[seen], **look, markevery=max(1, len(seen) // MAX_MARKERS))
    if curve.margin is not None:
        known = seen[np.isfinite(curve.margin[seen])]
        low, high = curve.y[known] - curve.margin[known], curve.y[known] + curve.margin[known]
        axis.fill_between(curve.x[known], low, high, color=color, alpha=0.2, linewidth=0)
    best = curve.best(panel.name)
    if best is not None:
        ring: dict[str, Any] = {
            "marker": "o",
            "markersize": 8,
            "markerfacecolor": "none",
            "markeredgewidth": 1.2,
            "linestyle": "none",
        }
        label = f"best: {curve.y[best]:.4g}" if len(drawing.runs) == 1 else ""
        axis.plot(curve.x[best : best + 1], curve.y[best : best + 1], color=color, label=label, **ring)


def _look(number: int, curve: Curve, panel: Panel, runs: int) -> dict[str, Any]:
    """Colour, line and marker. One run: they differ between the curves; several: between the runs."""
    trained = any(each.kind == "training" for each in panel.curves)  # the first colour is that of training
    place = curve.run if runs > 1 else number + (not trained)
    look: dict[str, Any] = {"color": COLORS[place % len(COLORS)]}
    if curve.kind == "whole":
        star = {"marker": "*", "markersize": 10, "markeredgecolor": "white", "markeredgewidth": 0.6, "zorder": 4}
        color = COLORS[curve.run % len(COLORS)] if runs > 1 else BLACK
        return look | star | {"color": color, "linestyle": "none", "label": curve.label}
    same_kind = [each for each in panel.curves if each.kind == curve.kind and each.run == curve.run]
    line = place if runs > 1 else same_kind.index(curve)
    look |= {"linestyle": LINES[line % len(LINES)], "label": curve.label}
    if curve.kind == "evaluation":
        return look | {"marker": MARKERS[place % len(MARKERS)], "markersize": 3.5}
    faint = any(each.kind != "training" for each in panel.curves)
    return look | {"linewidth": 1.0, "alpha": 0.55 if faint else 1.0}


def _layer_look(number: int, panel: Panel) -> dict[str, Any]:
    color = colormaps["cividis"](number / max(1, len(panel.curves) - 1) * 0.92)
    return {"color": color, "label": panel.curves[number].label, "linestyle": LINES[number % len(LINES)]}


def _draw_heat_map(axis: Axes, panel: Panel, *, log_y: bool) -> None:
    """Layers from the first at the bottom; every step that has a value for the first of them."""
    x = panel.curves[0].x
    rows = np.array([np.interp(x, curve.x, curve.y) for curve in panel.curves])
    if len(x) > 2 * MAX_COLUMNS:  # means of neighbours
        starts = np.linspace(0, len(x), MAX_COLUMNS, endpoint=False).astype(int)
        rows = np.add.reduceat(rows, starts, axis=1) / np.diff([*starts, len(x)])
        x = x[starts]
    mesh = axis.pcolormesh(
        x, range(len(rows)), rows, shading="nearest", cmap="cividis", norm="log" if log_y else None, rasterized=True
    )
    places = list(range(0, len(rows), -(-len(rows) // MAX_NAMES)))
    axis.set_yticks(places, [panel.curves[place].label for place in places])
    axis.set_ylabel("")
    axis.set_title(panel.label)
    axis.figure.colorbar(mesh, ax=axis, pad=0.01)


def _add_legend(axis: Axes, panel: Panel, drawing: _Drawing, *, on_sheet: bool) -> None:
    """Of one run: what each curve is. Of several: on the sheet, the runs stand once below all figures."""
    handles, labels = axis.get_legend_handles_labels()
    named = [(handle, label) for handle, label in zip(handles, labels, strict=True) if label]
    handles, labels = [each for each, _ in named], [each for _, each in named]
    if len(drawing.runs) > 1 and not panel.one_run:
        if on_sheet:
            return
        best = {curve.run: curve.y[place] for curve in panel.curves if (place := curve.best(panel.name)) is not None}
        handles = [*_run_handles(drawing.runs, best), *_kind_handles(handles, labels)]
        labels = [str(handle.get_label()) for handle in handles]
    if len(handles) > MANY_ENTRIES and isinstance(axis.figure, Figure) and not on_sheet:
        axis.figure.legend(handles, labels, loc="outside lower center", ncols=3)
    elif handles:
        axis.legend(handles, labels, ncols=2 if len(handles) > MANY_ENTRIES else 1)


def _run_handles(runs: Sequence[RunCurves], best: Mapping[int, float] = MappingProxyType({})) -> list[Line2D]:
    handles = []
    for number, run in enumerate(runs):
        label = f"{run.name}, best {best[number]:.4g}" if number in best else run.name
        marker = MARKERS[number % len(MARKERS)]
        look: dict[str, Any] = {"color": COLORS[number % len(COLORS)], "linestyle": LINES[number % len(LINES)]}
        handles.append(Line2D([], [], marker=marker, markersize=3.5, label=label, **look))
    return handles


def _kind_handles(handles: Sequence[Any], labels: Sequence[str]) -> list[Line2D]:
    """In grey, what tells the curves of one run apart."""
    found: dict[str, Line2D] = {}
    for handle, label in zip(handles, labels, strict=True):
        if isinstance(handle, Line2D) and label not in found:
            found[label] = Line2D([], [], color="0.5", linestyle=handle.get_linestyle(), label=label)
            found[label].set(marker=handle.get_marker(), markersize=handle.get_markersize())
    return list(found.values())


def _cut_start(axis: Axes, panel: Panel) -> str:
    """Leave out the top of the figure where only the first steps are. Returns what the label says of it."""
    start, (low, high) = float(panel.all_y().max()), shown_range(panel)
    if start <= high:
        return ""
    axis.set_ylim(low, high)
    return f"; starts at {start:,.0f}" if start >= 1000 else f"; starts at {start:.3g}"


@styled
def draw_curves(panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], path: Path) -> Path:
    """One figure. panels: title → label → steps and values; a label has the same colour in all panels."""
    places = {label: n for n, label in enumerate(dict.fromkeys(each for lines in panels.values() for each in lines))}
    size = (PANEL_SIZE[0] * len(panels), PANEL_SIZE[1])
    sheet = Figure(size, layout="constrained")
    axes = sheet.subplots(1, len(panels), squeeze=False)
    for axis, (title, lines) in zip(axes.flat, panels.items(), strict=True):
        for label, (steps, values) in lines.items():
            place = places[label]
            color, marker = COLORS[place % len(COLORS)], MARKERS[place % len(MARKERS)]
            axis.plot(steps, values, color=color, label=label, marker=marker, markersize=3)
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.legend()
        tidy(axis)
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(sheet, path)
