"""The figure of an evaluation: loss by position in the window, and the reliability diagram."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from fledge.evaluation.metrics import PositionLoss, ReliabilityBin, SplitMetrics
from fledge.tracking.plots import save, tidy


def draw_evaluation(evaluated: Mapping[str, SplitMetrics], path: Path) -> Path:
    """evaluated: the name of each model → its metrics. Returns the file."""
    sheet, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    right.plot([0, 1], [0, 1], color="0.7", linestyle="--", linewidth=1)
    for number, (name, metrics) in enumerate(evaluated.items()):
        _draw_positions(left, metrics.loss_by_position, f"C{number}", name)
        label = f"{name}: calibration error {metrics.calibration_error:.3f}"
        _draw_reliability(right, metrics.calibration, f"C{number}", label)
    left.set(xscale="log", xlabel="tokens before it in the window", ylabel="loss (nats per token)")
    left.set_xscale("log", base=2)
    left.xaxis.set_major_formatter("{x:g}")
    right.set(
        xlabel="probability of the predicted token", ylabel="fraction predicted rightly", xlim=(0, 1), ylim=(0, 1)
    )
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=8)
        tidy(axis)
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(sheet, path)


def _draw_positions(axis: Axes, buckets: list[PositionLoss], color: str, label: str) -> None:
    middles = [(each.first * each.last) ** 0.5 for each in buckets]
    axis.plot(middles, [each.loss for each in buckets], color=color, label=label, marker="o", markersize=3)


def _draw_reliability(axis: Axes, bins: list[ReliabilityBin], color: str, label: str) -> None:
    """The area of a point is the fraction of tokens in its bin."""
    filled, total = [each for each in bins if each.tokens], sum(each.tokens for each in bins)
    x, y = [each.confidence or 0.0 for each in filled], [each.accuracy or 0.0 for each in filled]
    axis.plot(x, y, color=color, linewidth=1, label=label)
    axis.scatter(x, y, s=[8 + 300 * each.tokens / total for each in filled], color=color, alpha=0.6, linewidths=0)
