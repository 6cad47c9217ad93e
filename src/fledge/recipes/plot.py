"""Draw the metrics of one run, or of several in the same figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fledge.core.progress import notice
from fledge.runs.run_folder import open_run
from fledge.tracking.plots import draw


@dataclass(frozen=True)
class PlotResult:
    figures: list[Path]  # PNG files: one for each metric, and all.png


def plot(names: Sequence[str], runs: Path, out: Path | None = None) -> PlotResult:
    """Draw these runs (none: the latest run) into the folder `out`; None: plots/ of the first run."""
    references: Sequence[str | None] = names or [None]
    opened = [open_run(each, runs, verify=False) for each in references]
    folders, tokenizers = [run.folder for run in opened], {run.metadata().get("tokenizer_sha256") for run in opened}
    if len(tokenizers) > 1:
        notice("the runs have different tokenizers, so losses per token cannot be compared: see bits_per_byte.png")
    return PlotResult(draw(folders, out or folders[0] / "plots", same_tokenizer=len(tokenizers) == 1))
