"""fledge resume RUN --verify: is everything of a run in its checkpoint? Load it, save it again, load that.

What comes back must be what was there, bit for bit: weights, the optimiser's memory, chance, data position.
Of another number of ranks chance is not asked for: nobody could restore it there.
"""

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fledge.checkpoint import store
from fledge.checkpoint.state import State, Tensors
from fledge.checkpoint.store import Checkpoint
from fledge.core.errors import UserError
from fledge.core.files import PARTIAL, sha256
from fledge.training.config import Settings
from fledge.training.trainer import Trainer


@dataclass(frozen=True)
class Verification:
    run: str
    checkpoint: str
    files: dict[str, str]  # name → SHA-256 of those that are the same before and after
    tensors: int
    numbers: int


def verify_checkpoint(training: Trainer, name: str) -> Verification:
    """By all ranks together; the first compares."""
    training.restore(training.load(name))
    checkpoint = store.describe(training.run.checkpoints / name)
    before = store.load(checkpoint)  # whole, also where each rank holds a part
    again = with_the_rest(
        training.captured(before.step, before.val_loss, before.pending_hooks), before, training.settings
    )
    files = json.loads(training.world.broadcast_from_main(lambda: json.dumps(saved_again(checkpoint, before, again))))
    tensors = [*before.weights.values(), *before.optimizer.values()]
    return Verification(training.run.name, name, files, len(tensors), sum(tensor.numel() for tensor in tensors))


def with_the_rest(again: State, before: State, settings: Settings) -> State:
    """What restoring does not bring back, as it is another's to say: settings, and what depends on how many ranks."""
    other_ranks = len(again.rng) != len(before.rng)  # each of which has drawn a chance of its own
    rng = before.rng if other_ranks else again.rng
    micro_batch = again.micro_batch if settings.train.micro_batch == "auto" and not other_ranks else before.micro_batch
    return replace(again, about=before.about, rng=rng, micro_batch=micro_batch)


def saved_again(checkpoint: Checkpoint, before: State, again: State) -> dict[str, str]:
    """The files that are the same, too: a checkpoint in parts is made whole, and then only its numbers are."""
    folder, name = checkpoint.folder, checkpoint.folder.name
    with tempfile.TemporaryDirectory(dir=folder.parents[1], prefix=f"{PARTIAL}proof-") as here:
        saved = store.save(Path(here), again)
        refuse_difference(name, before, store.load(saved))
        files = {file.name: sha256(file) for file in sorted(saved.folder.iterdir())}
    return {file: digest for file, digest in files.items() if digest == store.hash_of(folder / file)}


def refuse_difference(name: str, before: State, after: State) -> None:
    different = [f"weights of {key}" for key in differing(before.weights, after.weights)]
    different += [f"the optimiser's {key}" for key in differing(before.optimizer, after.optimizer)]
    rest = {key: value for key, value in vars(before).items() if key not in ("weights", "optimizer")}
    different += [key for key, value in rest.items() if vars(after)[key] != value]
    if different:
        raise UserError(
            f"'{name}' does not come back as it was: {', '.join(different[:5])}",
            "going on from it would not be exact; if this is the version of fledge that saved it, please report it",
        )


def differing(before: Tensors, after: Tensors) -> list[str]:
    """Bit for bit, so that even a NaN is equal to itself."""
    names = sorted({*before, *after})
    return [n for n in names if n not in before or n not in after or not same_bits(before[n], after[n])]


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(*(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)))
