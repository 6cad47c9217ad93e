"""The figure of an evaluation: loss by position in the window, and the reliability diagram."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fledge.evaluation.metrics import PositionLoss, ReliabilityBin, SplitMetrics
from fledge.tracking.figure_style import COLORS, LINES, MARKERS, save, styled, tidy


@styled
def draw_evaluation(evaluated: Mapping[str, SplitMetrics], path: Path) -> Path:
    """evaluated: the name of each model → its metrics. Returns the file."""
    sheet = Figure((9, 3.8), layout="constrained")
    left, right = sheet.subplots(1, 2)
    right.plot([0, 1], [0, 1], color="0.7", linestyle="--", linewidth=1)
    for number, (name, metrics) in enumerate(evaluated.items()):
        look = {"color": COLORS[number % len(COLORS)], "linestyle": LINES[number % len(LINES)]}
        _draw_positions(left, metrics.loss_by_position, {**look, "marker": MARKERS[number % len(MARKERS)]}, name)
        label = f"{name}: calibration error {metrics.calibration_error:.3f}"
        _draw_reliability(right, metrics.calibration, look, label)
    left.set(xscale="log", xlabel="tokens before it in the window", ylabel="loss (nats per token)")
    left.set_xscale("log", base=2)
    left.xaxis.set_major_formatter("{x:g}")
    right.set(
        xlabel="probability of the predicted token", ylabel="fraction predicted rightly", xlim=(0, 1), ylim=(0, 1)
    )
    for axis in (left, right):
        axis.legend()
        tidy(axis)
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(sheet, path)


def _draw_positions(axis: Axes, buckets: list[PositionLoss], look: dict[str, Any], label: str) -> None:
    middles = [(each.first * each.last) ** 0.5 for each in buckets]
    axis.plot(middles, [each.loss for each in buckets], label=label, markersize=3, **look)


def _draw_reliability(axis: Axes, bins: list[ReliabilityBin], look: dict[str, Any], label: str) -> None:
    """The area of a point is the fraction of tokens in its bin."""
    filled, total = [each for each in bins if each.tokens], sum(each.tokens for each in bins)
    x, y = [each.confidence or 0.0 for each in filled], [each.accuracy or 0.0 for each in filled]
    axis.plot(x, y, linewidth=1, label=label, **look)
    sizes = [8 + 200 * each.tokens / total for each in filled]
    axis.scatter(x, y, s=sizes, color=look["color"], alpha=0.6, linewidths=0)
