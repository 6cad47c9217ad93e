"""Which figures a set of metrics makes, and which curves each holds: data, for any program that draws.

train/loss, val/loss, val_whole/loss           → loss
dpo/chosen_reward, dpo/rejected_reward         → implicit_reward
stats/grad_norm/blocks.0, …/blocks.1, …        → stats_grad_norm, the layers of one run
time/data, time/optimizer, …                   → time
time/evaluation, …                             → time_beside
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fledge.tracking.curves import Columns
from fledge.tracking.metrics_table import Array
from fledge.tracking.sinks.csv import STEP

WHOLE = "val_whole"
TIME, TIME_BESIDE = "time", "time_beside"  # the panels of the group `time`
PARTS_OF_STEP = ("data", "forward_backward", "optimizer")  # the others are not measured per step
EVALUATED = ("val", WHOLE, "test")  # all other groups are measured in training: `train`, `rollout`, `ppo`
LABELS = {
    "loss": "loss (nats per token)",
    "bits_per_byte": "bits per byte",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "step_seconds": "seconds per step",
    "tokens_per_second": "tokens per second",
    "accuracy": "accuracy of the next token",
    "length": "length of answers (tokens)",
    "entropy": "entropy (nats per token)",
    "truncated": "share of answers cut off",
    "exact_match": "share of exact answers",
    "kl": "KL divergence from the reference (nats per answer)",
    "update_kl": "KL divergence of an update (nats per token)",
    "clip_fraction": "share of clipped tokens",
    "zero_variance_groups": "share of groups with equal rewards",
    "reward_std": "standard deviation of rewards",
    "logprob": "log-probability of an answer (nats)",
    "implicit_reward": "implicit reward",
    "score": "score of an answer",
    TIME: "seconds per step, by part",
    TIME_BESIDE: "seconds beside the steps, since the row before",
    "mfu": "share of the machine's peak FLOPs (MFU)",
    "update_ratio": "norm of the update / norm of the weights",
    "activation_rms": "root mean square of activations",
    "attention_entropy": "attention entropy (nats)",
}
# These come first, in this order; the others as they occur.
ORDER = (
    *("loss", "bits_per_byte", "perplexity", "accuracy", "reward", "exact_match", "implicit_reward", "score", "kl"),
    *("lr", "grad_norm", "step_seconds", "tokens_per_second"),
)
# Of chosen and rejected answers: two metrics, one figure.
PAIRED = {
    **{f"{answer}_logprob": "logprob" for answer in ("chosen", "rejected")},
    **{f"{answer}_reward": "implicit_reward" for answer in ("chosen", "rejected")},
    **dict.fromkeys(("chosen", "rejected"), "score"),
}
NOT_DRAWN = {STEP, "train/tokens", "train/epoch", "val/tokens", "val/fraction", "val/seconds"}
INTERVALS = {"margin": 1.0, "error": 1.96}  # suffix of the metric with the uncertainty of another: half of 95 %
ROLLOUT_SPEED = {"train/tokens_per_second", "train/step_seconds"}  # few steps generate, so these only jump
PER_TOKEN = ("loss", "perplexity", "accuracy")  # cannot be compared between tokenizers
FALLING = ("loss", "bits_per_byte", "perplexity")  # lower is better; their first values would squash all others
CUT_SHARE = 0.05  # of the steps: what comes before may lie above the figure
RISING = ("accuracy", "reward", "exact_match")  # higher is better

Kind = Literal["training", "evaluation", "whole"]
KINDS: tuple[Kind, ...] = ("training", "evaluation", "whole")  # drawn in this order


@dataclass(frozen=True)
class Curve:
    metric: str  # such as `val/loss`
    run: int  # index
    x: Array
    y: Array  # finite values only
    margin: Array | None  # half of the 95 % interval, NaN where it is not known
    label: str  # what tells it from the others of its run and figure; "": it is alone
    kind: Kind

    def best(self, panel: str) -> int | None:
        """The index of the best value, where lower or higher is better, and it was evaluated."""
        flat = self.y.min() == self.y.max()
        if self.kind != "evaluation" or flat or panel not in (*FALLING, *RISING):
            return None
        return int(self.y.argmin() if panel in FALLING else self.y.argmax())


@dataclass(frozen=True)
class Panel:
    name: str  # of the file
    label: str  # of the y axis
    curves: list[Curve]
    layers: bool = False  # a curve for each layer
    one_run: bool = False  # of the runs that are compared

    def all_y(self) -> Array:
        return np.concatenate([curve.y for curve in self.curves])


def shown_range(panel: Panel) -> tuple[float, float]:
    """The values that a figure shows: not the first ones, where they are so high that they would squash the others."""
    values = panel.all_y()
    low, high = float(values.min()), float(values.max())
    if panel.name not in FALLING:
        return low, high
    late = np.concatenate([curve.y[curve.x >= CUT_SHARE * curve.x[-1]] for curve in panel.curves])
    late_low, late_high = float(late.min()), float(late.max())
    if high <= late_high + 0.25 * (late_high - late_low) or late_high == late_low:
        return low, high
    margin = 0.08 * (late_high - late_low)
    return late_low - margin, late_high + margin


@dataclass(frozen=True)
class RunCurves:
    """A run as a figure shows it."""

    name: str
    columns: Columns
    x: Array  # where each row stands


def panels_of(runs: Sequence[RunCurves], *, same_tokenizer: bool = True) -> list[Panel]:
    """All figures of these runs. Losses per token are left out where the tokens differ."""
    groups: dict[str, list[str]] = {}
    names = dict.fromkeys(name for run in runs for name, values in run.columns.items() if np.isfinite(values).any())
    hidden = NOT_DRAWN | (ROLLOUT_SPEED if "rollout/reward" in names else set())
    for name in names:
        if name not in hidden and not name.startswith("val_best/") and not is_interval(name, names):
            groups.setdefault(panel_name(name), []).append(name)
    order = [name for name in ORDER if name in groups] + [name for name in groups if name not in ORDER]
    panels = []
    for panel in order:
        if panel in PER_TOKEN and not same_tokenizer:
            continue
        if panel in (TIME, TIME_BESIDE) or groups[panel][0].count("/") > 1:
            panels += panels_of_parts(panel, groups[panel], runs)
        else:
            curves = [curve for number in range(len(runs)) for curve in _curves(runs[number], number, groups[panel])]
            panels.append(Panel(panel, LABELS.get(panel, panel.replace("_", " ")), curves))
    return [panel for panel in panels if panel.curves]


def panel_name(metric: str) -> str:
    """`train/loss` → `loss`; `stats/grad_norm/blocks.0` → `stats_grad_norm`; `time/data` → `time`."""
    group, _, name = metric.partition("/")
    if "/" in name:
        return f"{group}_{name.partition('/')[0]}"
    if group == TIME:
        return TIME if name in PARTS_OF_STEP else TIME_BESIDE
    return PAIRED.get(name, name)


def is_interval(name: str, names: Collection[str]) -> bool:
    """Whether a metric is the uncertainty of another: `val/loss_margin`."""
    return any(name.removesuffix(f"_{suffix}") in names for suffix in INTERVALS if name.endswith(f"_{suffix}"))


def panels_of_parts(panel: str, names: Sequence[str], runs: Sequence[RunCurves]) -> list[Panel]:
    """Layers, or parts of a step: a figure for each run, as those of several could not be told apart."""
    layers = names[0].count("/") > 1
    quantity = names[0].split("/")[1] if layers else panel
    label = LABELS.get(quantity, quantity.replace("_", " ")) + (", by layer" if layers else "")
    panels = []
    for number, run in enumerate(runs):
        curves = []
        for name in names:
            part = name.split("/", 1 + layers)[-1].replace("_", " ")
            curves += _curves(run, number, [name], part)
        file, of_run = "", ""
        if len(runs) > 1:
            file, of_run = "-" + re.sub(r"[^\w.-]", "-", run.name), f": {run.name}"
        panels.append(Panel(panel + file, label + of_run, curves, layers, one_run=True))
    return panels


def _curves(run: RunCurves, number: int, names: Sequence[str], label: str | None = None) -> list[Curve]:
    found = []
    splits = list(dict.fromkeys(name.partition("/")[0] for name in names))
    for name in names:
        values = run.columns.get(name)
        if values is None:
            continue
        measured = np.isfinite(values) & np.isfinite(run.x)
        if measured.any():
            split = name.partition("/")[0]
            kind: Kind = "whole" if split == WHOLE else "evaluation" if split in EVALUATED else "training"
            text = _label(name, splits, run.columns) if label is None else label
            margin = _margin(name, run.columns, measured)
            found.append(Curve(name, number, run.x[measured], values[measured], margin, text, kind))
    return sorted(found, key=lambda curve: KINDS.index(curve.kind))


def _margin(name: str, columns: Columns, measured: NDArray[np.bool_]) -> Array | None:
    for suffix, factor in INTERVALS.items():
        margin = columns.get(f"{name}_{suffix}")
        if margin is not None and np.isfinite(margin[measured]).any():
            return factor * margin[measured]
    return None


def _label(name: str, splits: Sequence[str], columns: Columns) -> str:
    """Where it was measured, or of which answers."""
    split, _, metric = name.partition("/")
    where = split.replace(WHOLE, "val, whole split") if len(splits) > 1 else ""
    if name == "val/loss" and where and _is_sampled(columns):
        where = "val, sample (95 % interval)"
    answer = metric.partition("_")[0] if metric in PAIRED else ""
    return ", ".join(part for part in (where, answer) if part)


def _is_sampled(columns: Columns) -> bool:
    """Whether `val/loss` is that of a sample of the validation split."""
    fraction = columns.get("val/fraction")
    return fraction is not None and bool((fraction[np.isfinite(fraction)] < 1).any())
