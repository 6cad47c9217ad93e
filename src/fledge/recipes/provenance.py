"""fledge data find: where does a text come from?"""

from collections.abc import Sequence

from fledge.core.progress import byte_progress, notice, progress
from fledge.datasets.shards import Dataset
from fledge.insight.build_suffix_array import ensure_suffix_array
from fledge.insight.origin import TextOrigin, trace, with_losses
from fledge.insight.provenance import Provenance
from fledge.insight.suffix_array import POSITION, SuffixArray, index_folder
from fledge.runs.run_folder import RunFolder


def find_origin(
    run: RunFolder, text: str | Sequence[int], *, minimum: int | None = None, losses: bool = True
) -> TextOrigin:
    """The matches of a text (or of ids) in a run's training data, their documents, steps and losses.

    minimum: tokens of a match that counts as copied; None: measured on the validation split.
    losses: at every checkpoint, which takes a moment each.
    """
    provenance = Provenance(run)
    array = indexed(provenance.dataset)
    origin = trace(provenance, array, text, minimum)
    if not losses:
        return origin
    return with_losses(origin, provenance, array, lambda checkpoints: progress(checkpoints, "loss by checkpoint"))


def indexed(dataset: Dataset) -> SuffixArray:
    """The suffix array of the training split, built at the first question."""
    folder, size, done = index_folder(dataset), POSITION.itemsize * len(dataset.split("train")), 0
    if not folder.exists():
        notice(f"indexing the training data once, for this and every later search; kept in {folder}")
    with byte_progress("indexing", size) as advance:

        def report(share: float) -> None:
            nonlocal done
            advance(int(share * size) - done)
            done = int(share * size)

        return ensure_suffix_array(dataset, report)
