"""Draw the metrics of one run, or of several in the same figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fledge.core.errors import UserError
from fledge.core.progress import notice
from fledge.runs.run_folder import open_whole_run
from fledge.tracking.figure_style import FORMATS
from fledge.tracking.plots import BY_STEP, PlotStyle, draw


@dataclass(frozen=True)
class PlotResult:
    figures: list[Path]  # one for each metric, and `all` with all of them, in each format


def plot(names: Sequence[str], runs: Path, out: Path | None = None, *, style: PlotStyle = BY_STEP) -> PlotResult:
    """Draw these runs (none: the latest run) into the folder `out`; None: plots/ of the first run."""
    if unknown := [each for each in style.formats if each not in FORMATS]:
        raise UserError(f"there is no format '{unknown[0]}'", f"choose from {', '.join(FORMATS)}, separated by commas")
    if not 0 <= style.smooth < 1:
        raise UserError(
            f"--smooth cannot be {style.smooth:g}", "it takes a number from 0 (off) to below 1, such as 0.9"
        )
    references: Sequence[str | None] = names or [None]
    opened = [open_whole_run(each, runs) for each in references]
    for run in opened:
        if "imported" in run.metadata():
            raise UserError(
                f"'{run.name}' was imported: it has no curves, as it was not trained here",
                "choose a trained run: fledge runs",
            )
    folders, tokenizers = [run.folder for run in opened], {run.metadata().get("tokenizer_sha256") for run in opened}
    if len(tokenizers) > 1:
        notice("the runs have different tokenizers, so losses per token cannot be compared: see bits_per_byte")
    figures = draw(folders, out or folders[0] / "plots", same_tokenizer=len(tokenizers) == 1, style=style)
    return PlotResult(figures)
