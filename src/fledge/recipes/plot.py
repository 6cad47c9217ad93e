"""Draw the metrics of one run, or of several in the same figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fledge.runs.run_folder import open_run
from fledge.tracking.plots import draw


@dataclass(frozen=True)
class PlotResult:
    figures: list[Path]  # PNG files: one for each metric, and all.png


def plot(names: Sequence[str], runs: Path, out: Path | None = None) -> PlotResult:
    """Write the figures to `out`; None: to plots/ of the first run."""
    folders = [open_run(name, runs, verify=False).folder for name in names]
    return PlotResult(draw(folders, out or folders[0] / "plots"))
