"""Which checkpoints of a run are kept, and how much of each.

    resumable       the newest `keep_last`, the best, and the one that a rollback would go to
    weights only    those at `history_steps`, for looking back at how the model has learned

A weights-only checkpoint is written as such, or is what remains of a resumable one that has aged. Its manifest is
replaced first, atomically; then the files that it no longer names are removed. So a checkpoint is resumable or
weights-only at any moment, and a killed process leaves at most superfluous files, which the next one removes.
"""

import shutil
from collections.abc import Collection
from pathlib import Path

from fledge.checkpoint import store
from fledge.checkpoint.store import MANIFEST, Checkpoint
from fledge.core.checksums import with_checksum
from fledge.core.files import errors_with_path, remove_partials, restore_replaced, write_atomic

DISK_SHARE = 0.1  # of the free space, for all weights-only checkpoints of a run


def history_steps(steps: int, count: int) -> tuple[int, ...]:
    """`count` steps from 1 to `steps`, log-spaced as far as they are distinct; all steps if there are fewer.

    history_steps(1000, 10) == (1, 2, 4, 9, 20, 44, 96, 210, 458, 1000)
    """
    chosen = [1] if count else []
    for left in range(count - 1, 0, -1):
        chosen.append(max(chosen[-1] + 1, round(chosen[-1] * (steps / chosen[-1]) ** (1 / left))))
    return tuple(step for step in chosen if step <= steps)


def affordable(folder: Path, count: int, weight_bytes: int) -> int:
    """How many weights-only checkpoints, at most `count`, fit into their share of the free disk."""
    return min(count, int(DISK_SHARE * shutil.disk_usage(folder).free / max(1, weight_bytes)))


def prune(folder: Path, keep_last: int, history: Collection[int] = ()) -> None:
    """Remove what has aged; at the steps in `history`, keep its weights. Weights-only checkpoints all stay.

    Also removes leftovers of interrupted saves.
    """
    remove_leftovers(folder)
    resumable = [each for each in store.complete_checkpoints(folder) if not each.weights_only]
    keep = {*resumable[-max(1, keep_last) :], store.rollback_target_of(resumable)}
    if not keep.issuperset(resumable):
        keep.add(store.best_checkpoint(folder))
    for checkpoint in resumable:
        if checkpoint in keep:
            continue
        if checkpoint.step in history:
            strip_to_weights(checkpoint)
        else:
            store.remove(checkpoint.folder)


def strip_to_weights(checkpoint: Checkpoint) -> None:
    """Keep the weights of a checkpoint, and state.json."""
    manifest = store.read_manifest(checkpoint.folder)
    files = {name: digest for name, digest in manifest["files"].items() if store.belongs_to_weights(name)}
    write_atomic(checkpoint.folder / MANIFEST, with_checksum(manifest | {"files": files, "weights_only": True}))
    _remove_unnamed(checkpoint)


def _remove_unnamed(checkpoint: Checkpoint) -> None:
    with errors_with_path(checkpoint.folder):
        for file in checkpoint.folder.iterdir():
            if file.name != MANIFEST and not store.belongs_to_weights(file.name):
                file.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes have left: unfinished files, and files that a stripped checkpoint has lost.

    A checkpoint that was about to be replaced gets its name back first.
    """
    restore_replaced(folder)
    remove_partials(folder)
    for checkpoint in store.complete_checkpoints(folder):
        remove_partials(checkpoint.folder)
        if checkpoint.weights_only:
            _remove_unnamed(checkpoint)
