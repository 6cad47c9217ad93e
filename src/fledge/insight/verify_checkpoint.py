"""Checks that a checkpoint has the whole state of a training run: load it, save it again, load that, compare.

For `fledge resume RUN --verify`. Weights, optimizer state, random generators and data position must come back bit for
bit; of a weights-only checkpoint, the weights. With another number of ranks the random generators are left out: they
cannot be restored.
"""

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fledge.checkpoint import store
from fledge.checkpoint.state import State, Tensors, load_weights
from fledge.checkpoint.store import Checkpoint
from fledge.core.errors import UserError
from fledge.core.files import PARTIAL, sha256
from fledge.training.trainer import Trainer


@dataclass(frozen=True)
class Verification:
    run: str
    reference: str  # how a command names it
    checkpoint: str
    files: dict[str, str]  # name → SHA-256 of the files that are identical
    tensors: int
    numbers: int


def verify_checkpoint(trainer: Trainer, name: str) -> Verification:
    """A collective; the main process compares."""
    checkpointer = trainer.checkpointer
    checkpoint = store.describe(trainer.run.checkpoints / name)
    before = store.load(checkpoint)  # whole, also with FSDP
    if checkpoint.weights_only:
        load_weights(trainer.model, checkpointer.load(name).weights)
        again = replace(before, weights=checkpointer.capture(before.step, weights_only=True).weights)
    else:
        trainer.restore(checkpointer.load(name))
        fields = {name: getattr(before, name) for name in ("val_loss", "pending_hooks", "scheduled")}
        again = fill_unrestored(checkpointer.capture(before.step, **fields), before)
    found = trainer.world.broadcast_from_main(lambda: json.dumps(save_and_compare(checkpoint, before, again)))
    tensors = [tensor for group in before.groups.values() for tensor in group.values()]
    return Verification(
        trainer.run.name,
        trainer.run.reference,
        name,
        json.loads(found),
        len(tensors),
        sum(tensor.numel() for tensor in tensors),
    )


def fill_unrestored(again: State, before: State) -> State:
    """Take from `before` what is not restored: the metadata, and what depends on settings or the number of ranks."""
    # The first checkpoint of a run that starts from given weights has none: they are those of a new run.
    components = {**before.components, **again.components} if before.components else {}
    if len(again.rng) == len(before.rng):
        return replace(again, provenance=before.provenance, components=components)
    if "micro_batch" in before.components:
        components["micro_batch"] = before.components["micro_batch"]
    return replace(again, provenance=before.provenance, components=components, rng=before.rng)


def save_and_compare(checkpoint: Checkpoint, before: State, again: State) -> dict[str, str]:
    """The identical files. A sharded checkpoint is saved whole, so only its numbers can be identical."""
    folder, name = checkpoint.folder, checkpoint.folder.name
    with tempfile.TemporaryDirectory(dir=folder.parents[1], prefix=f"{PARTIAL}verify-") as temporary:
        saved = store.save(Path(temporary), again)
        refuse_difference(name, before, store.load(saved))
        files = {file.name: sha256(file) for file in sorted(saved.folder.iterdir())}
    return {file: digest for file, digest in files.items() if digest == store.hash_of(folder / file)}


def refuse_difference(name: str, before: State, after: State) -> None:
    different = [
        f"{group}: {key}"
        for group in {**before.groups, **after.groups}
        for key in differing(before.groups.get(group, {}), after.groups.get(group, {}))
    ]
    rest = {key: value for key, value in vars(before).items() if key not in store.NOT_IN_STATE_JSON}
    different += [key for key, value in rest.items() if vars(after)[key] != value]
    if different:
        raise UserError(
            f"'{name}' did not round-trip: these differ: {', '.join(different[:5])}",
            "resuming would not be exact; if this version of fledge has saved it, please report this",
        )


def differing(before: Tensors, after: Tensors) -> list[str]:
    """Bit for bit, so that a NaN is equal to itself."""
    names = sorted({*before, *after})
    return [n for n in names if n not in before or n not in after or not same_bits(before[n], after[n])]


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(*(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)))
