"""A chart as inline SVG: its colours are those of the page, in the dark and on paper; text stays text."""

import math
from collections.abc import Sequence

from fledge.tracking.report.data import Chart, ChartCurve
from fledge.tracking.report.escape import escape_html

WIDTH, HEIGHT = 440, 250
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 10, 34
COLORS = 7  # --series-1 … --series-7 in style.css
DASHES = ("", "6 3", "8 3 2 3", "2 3")
TICKS = (6, 8)  # at most, on each axis
MOST_MARKERS = 30


class _Scale:
    """Values → places in the picture."""

    def __init__(self, low: float, high: float, begin: float, end: float) -> None:
        self.low, self.high = (low, high) if high > low else (low - abs(low) / 2 - 0.5, high + abs(high) / 2 + 0.5)
        self._begin, self._end = begin, end

    def __call__(self, value: float) -> str:
        share = (value - self.low) / (self.high - self.low)
        return f"{self._begin + share * (self._end - self._begin):.1f}"

    def ticks(self, most: int, *, whole: bool = False) -> list[float]:
        """At most so many round numbers. whole: of steps, which have no fractions."""
        rough = max((self.high - self.low) / most, 1.0 if whole else 0.0)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(each * power for each in (1, 2, 2.5, 5, 10) if each * power >= rough * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def svg(chart: Chart, number: int) -> str:
    """`number`: of the chart on the page; it makes the names inside unique."""
    xs = [value for curve in chart.curves for value in (curve.x[0], curve.x[-1])]
    first = 0.0 if 0 < min(xs) < 0.05 * max(xs) else min(xs)
    pad = 0.04 * (chart.high - chart.low)
    x = _Scale(first, max(xs), LEFT, WIDTH - RIGHT)
    y = _Scale(chart.low - pad, chart.high + pad, HEIGHT - BOTTOM, TOP)
    parts = [*_axes(chart, x, y)]
    for mark in chart.marks:
        parts.append(f'<line class="mark" x1="{x(mark)}" x2="{x(mark)}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    parts.append(f'<g clip-path="url(#clip-{number})">')
    for place, curve in enumerate(chart.curves):
        parts += _curve(curve, look(chart, place), x, y, faint=_is_faint(chart, curve))
    parts.append("</g>")
    clip = (
        f'<rect x="{LEFT - 8}" y="{TOP - 4}" width="{WIDTH - LEFT - RIGHT + 16}" height="{HEIGHT - TOP - BOTTOM + 8}"/>'
    )
    label = escape_html(describe(chart))
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f'<defs><clipPath id="clip-{number}">{clip}</clipPath></defs>{"".join(parts)}</svg>'
    )


def describe(chart: Chart) -> str:
    """loss (nats per token) by step. train: 6.95 to 3.13; val: 6.96 to 3.52, best 3.52 at step 904."""
    curves = []
    for curve in chart.curves:
        best = "" if curve.best is None else f", best {curve.y[curve.best]:.4g} at {curve.x[curve.best]:,.0f}"
        name = f"{curve.label}: " if curve.label else ""
        curves.append(f"{name}{curve.y[0]:.4g} to {curve.y[-1]:.4g}{best}")
    return f"{chart.label} by {chart.x_label}. {'; '.join(curves)}."


def look(chart: Chart, place: int) -> str:
    """The class of a curve, and its dashes: both differ, for readers who do not see colours."""
    curve = chart.curves[place]
    if chart.layers:
        shade = round(10 * place / max(1, len(chart.curves) - 1))
        return f'class="layer shade-{shade}"'
    trained = any(each.kind == "training" for each in chart.curves)  # the first colour is that of training
    color = 8 if curve.kind == "whole" else 1 + (place + (not trained)) % COLORS
    same = [each for each in chart.curves if each.kind == curve.kind]
    dashes = DASHES[same.index(curve) % len(DASHES)]
    return f'class="series-{color}"' + (f' stroke-dasharray="{dashes}"' if dashes else "")


def key(chart: Chart, place: int) -> str:
    """The small picture of a curve in the legend."""
    style, kind = look(chart, place), chart.curves[place].kind
    if kind == "whole":
        return f'<path {style} d="{_diamond(11, 5)}"/>'
    dot = f'<circle {style} cx="11" cy="5" r="2.4"/>' if kind == "evaluation" else ""
    return f'<path {style} data-kind="line" d="M1 5L21 5"/>{dot}'


def _is_faint(chart: Chart, curve: ChartCurve) -> bool:
    return curve.kind == "training" and any(each.kind != "training" for each in chart.curves)


def _axes(chart: Chart, x: _Scale, y: _Scale) -> list[str]:
    parts = []
    for value in y.ticks(TICKS[1]):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value)}" y2="{y(value)}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 6}" y="{y(value)}" dy=".35em" text-anchor="end">{_tick(value)}</text>'
        )
    ticks = x.ticks(TICKS[0], whole=True)
    for value in ticks:
        parts.append(
            f'<text class="tick" x="{x(value)}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{_tick(value)}</text>'
        )
    bottom = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="tick" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape_html(chart.x_label)}</text>'
    )
    return parts


def _curve(curve: ChartCurve, style: str, x: _Scale, y: _Scale, *, faint: bool) -> list[str]:
    points = [(x(a), y(b)) for a, b in zip(curve.x, curve.y, strict=True)]
    if curve.kind == "whole":
        return [f'<path {style} d="{_diamond(*map(float, point))}"/>' for point in points]
    parts = []
    if curve.margin is not None and (band := _band(curve, x, y)):
        parts.append(f'<path {style} data-kind="band" d="{band}"/>')
    line = "M" + "L".join(f"{a} {b}" for a, b in points)
    parts.append(f'<path {style} data-kind="{"faint" if faint else "line"}" d="{line}"/>')
    if curve.kind == "evaluation":
        every = max(1, len(points) // MOST_MARKERS)
        parts += [f'<circle {style} cx="{a}" cy="{b}" r="2.4"/>' for a, b in points[::every]]
    if len(points) == 1:
        parts.append(f'<circle {style} cx="{points[0][0]}" cy="{points[0][1]}" r="2.4"/>')
    if curve.best is not None:
        a, b = points[curve.best]
        parts.append(f'<circle {style} data-kind="best" cx="{a}" cy="{b}" r="6"/>')
    return parts


def _band(curve: ChartCurve, x: _Scale, y: _Scale) -> str:
    known = [(a, b, m) for a, b, m in zip(curve.x, curve.y, curve.margin or [], strict=True) if m is not None]
    if len(known) < 2:
        return ""
    upper = [f"{x(a)} {y(b + m)}" for a, b, m in known]
    lower = [f"{x(a)} {y(b - m)}" for a, b, m in reversed(known)]
    return "M" + "L".join([*upper, *lower]) + "Z"


def _diamond(x: float, y: float) -> str:
    return f"M{x:.1f} {y - 5:.1f}L{x + 5:.1f} {y:.1f}L{x:.1f} {y + 5:.1f}L{x - 5:.1f} {y:.1f}Z"


def _tick(value: float) -> str:
    """1.5M · 20k · 0.25 · 5e-5"""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / min(size, 1e3 if suffix == 'k' else size):.6g}{suffix}"
    return f"{value:.6g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.3g}"


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """The shape of a curve in one line of text: ▇▅▃▂▁"""
    if not values:
        return ""
    low, high = min(values), max(values)
    places = [
        round(n * (len(values) - 1) / max(1, min(width, len(values)) - 1)) for n in range(min(width, len(values)))
    ]
    levels = "▁▂▃▄▅▆▇█"
    return "".join(levels[round((values[p] - low) / ((high - low) or 1) * (len(levels) - 1))] for p in places)
