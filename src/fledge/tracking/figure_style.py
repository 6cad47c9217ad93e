"""How all figures look, and how they are saved: the same data gives the same file, and text stays text.

No global state of matplotlib is changed: a notebook keeps its own style and backend.

Colours are those of Okabe and Ito, which colour-blind people can tell apart; lines and markers differ too, for grey.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK = COLORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
)
LINES = ("solid", "dashed", "dashdot", "dotted")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
FORMATS = ("png", "svg", "pdf")
WIDTH, HEIGHT = 5.5, 3.4  # inches: the width of a page of text at most conferences
DPI = 200  # of a PNG
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "legend.framealpha": 0.8,
    "legend.edgecolor": "none",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "svg.fonttype": "none",  # text, not outlines
    "svg.hashsalt": "fledge",
    "pdf.fonttype": 42,
    "axes.formatter.limits": (-3, 6),
    "axes.formatter.use_mathtext": True,
}
NO_DATE: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}

styled = rc_context(STYLE)  # decorates a function that draws and saves


def tidy(axis: Axes) -> None:
    axis.grid(alpha=0.25, linewidth=0.5)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path, *, dpi: int = DPI) -> Path:
    """Write a figure in the format that the name ends in."""
    figure.savefig(path, dpi=dpi, metadata=NO_DATE.get(path.suffix[1:].lower(), {}))
    return path


def save_all(figure: Figure, stem: Path, formats: Sequence[str], *, dpi: int = DPI) -> list[Path]:
    return [save(figure, stem.with_name(f"{stem.name}.{each}"), dpi=dpi) for each in formats]
