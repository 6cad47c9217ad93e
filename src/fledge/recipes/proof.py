"""fledge resume RUN --verify: is everything of a run in its checkpoint? Load it, save it again, load that.

What comes back must be what was there, bit for bit: weights, the optimiser's memory, chance, data position, settings.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from fledge.base.errors import UserError
from fledge.base.files import sha256
from fledge.checkpoint import store
from fledge.checkpoint.state import State, Tensors
from fledge.recipes.training import Training


@dataclass(frozen=True)
class Proof:
    run: str
    checkpoint: str
    files: dict[str, str]  # name → SHA-256, the same before and after
    tensors: int
    numbers: int


def prove(training: Training, name: str) -> Proof:
    before = training.load(name)
    training.restore(before)
    again = training.captured(before.step, before.val_loss, before.owed)
    folder = training.run.checkpoints
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".proof-") as here:
        saved = store.save(Path(here), again)
        refuse_difference(name, before, store.load(saved))
        files = {file.name: sha256(file) for file in sorted(saved.folder.iterdir())}
    tensors = [*before.weights.values(), *before.optimizer.values()]
    return Proof(training.run.name, name, files, len(tensors), sum(tensor.numel() for tensor in tensors))


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


def in_words(proof: Proof) -> str:
    lines = [f"  {name:<26}{digest[:16]}…  identical" for name, digest in proof.files.items()]
    told = f"{proof.numbers:,} numbers in {proof.tensors} tensors, and everything else"
    return "\n".join(
        [
            f"'{proof.run}', {proof.checkpoint}: loaded, saved and loaded again",
            *lines,
            f"{told}: bit for bit the same\nnext: fledge resume {proof.run}",
        ]
    )
