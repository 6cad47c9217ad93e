"""fledge data show: the text that a training step learned from."""

from dataclasses import dataclass
from pathlib import Path

from fledge.core.errors import UserError
from fledge.insight.provenance import Provenance, TrainingSample
from fledge.runs.run_folder import open_run


@dataclass(frozen=True)
class BatchText:
    run: str
    step: int | None  # None where samples were asked for
    samples: list[TrainingSample]


def show(
    run: str | None,
    step_or_samples: int | range,
    *,
    runs: Path,
    ranks: int = 1,
    rank: int | None = None,
    micro_batch: int | None = None,
) -> BatchText:
    """Show the batch of a step (its number), or samples by their numbers (a range).

    run: name or path; None: the latest run.
    `rank` and `micro_batch` choose a part of the batch, split over `ranks` processes.
    """
    folder = open_run(run, runs)
    provenance = Provenance(folder)
    if isinstance(step_or_samples, int):
        step: int | None = step_or_samples
        samples = provenance.step(step_or_samples, ranks)
    else:
        step, samples = None, provenance.samples(step_or_samples, ranks)
    chosen = [each for each in samples if rank in (None, each.rank) and micro_batch in (None, each.micro_batch)]
    if not chosen:
        local_batch, size = provenance.batch_sizes(ranks)
        parts = "of unknown size" if size is None else f"0 to {-(-local_batch // size) - 1}"
        raise UserError("the batch has no such part", f"ranks are 0 to {ranks - 1}, micro-batches {parts}")
    return BatchText(folder.name, step, chosen)
