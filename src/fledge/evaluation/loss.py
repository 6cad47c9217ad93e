"""The loss of a model on a whole split: deterministic, every token counted once.

The split is cut into windows of one context, side by side; the last one is shorter. Each token but the very first is a
target exactly once, predicted from the tokens before it in its window. Batches of windows go to the ranks in turn.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fledge.core.device import Machine
from fledge.core.errors import out_of_memory
from fledge.datasets.shards import Split
from fledge.losses.cross_entropy import IGNORE, cross_entropy_sum
from fledge.model.gpt import GPT
from fledge.model.head import Head

MAX_TOKENS = {"cpu": 4096, "mps": 16_384, "cuda": 16_384}  # of a batch; a CPU is faster where its caches hold the batch
MAX_LOGITS = 2**26  # of a batch: a quarter of a gigabyte
PADDING = (0, 0)  # an empty window: all FSDP ranks must run the same number of forward passes


@dataclass(frozen=True)
class LossResult:
    split: str
    loss: float  # nats per token
    perplexity: float
    bits_per_byte: float  # comparable between tokenizers
    accuracy: float  # fraction of tokens that got the highest logit
    tokens: int
    context: int

    def metrics(self) -> dict[str, float]:
        """What is logged: `val/loss`, `val/bits_per_byte`, …"""
        names = ("loss", "perplexity", "bits_per_byte", "accuracy")
        return {f"{self.split}/{name}": getattr(self, name) for name in names}


def windows(length: int, context: int) -> list[tuple[int, int]]:
    """(start, number of targets) of each window: [0, context], [context, 2·context], …"""
    return [(start, min(context, length - 1 - start)) for start in range(0, length - 1, context)]


def eval_batch_size(context: int, vocab_size: int, machine: Machine) -> int:
    """How many windows go through the model at once."""
    return max(1, min(MAX_TOKENS[machine.device], MAX_LOGITS // vocab_size) // context)


@torch.no_grad()  # inference_mode would mark FSDP's gathered parameters as inference tensors
def evaluate_loss(
    model: GPT,
    split: Split,
    byte_lengths: NDArray[np.int64],
    machine: Machine,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> LossResult:
    """`byte_lengths` [V]: the bytes of text that each token stands for; `progress` wraps the loop over batches."""
    context, world = model.config.context, machine.world
    cuts = windows(len(split), context)
    rows = eval_batch_size(context, byte_lengths.size, machine)
    sums = torch.zeros(4, dtype=torch.float64)  # nats, correct tokens, tokens, bytes
    was_training = model.training
    model.eval()
    try:
        for start in progress(range(0, len(cuts), rows * world.size)):
            first = start + world.rank * rows
            ids = read_windows(split, cuts[first : first + rows] or [PADDING], context)
            valid = ids[:, 1:][ids[:, 1:] != IGNORE]
            counts = torch.tensor([len(valid), byte_lengths[valid].sum()])
            sums += torch.cat((loss_and_correct(model, ids, machine), counts))
    finally:
        model.train(was_training)
    nats, correct, tokens, length = world.all_reduce_sum(sums).tolist()
    loss = nats / tokens
    return LossResult(
        split=split.name,
        loss=loss,
        perplexity=math.exp(loss) if loss < 700 else math.inf,
        bits_per_byte=nats / math.log(2) / max(1, length),
        accuracy=correct / tokens,
        tokens=int(tokens),
        context=context,
    )


def loss_and_correct(model: GPT, ids: NDArray[np.int64], machine: Machine) -> Tensor:
    """ids [B, T + 1] → the summed loss, and the number of targets with the highest logit. [2]

    Out of memory: retry with half of the windows at a time. Several ranks must call the model equally often: they fail.
    """
    try:
        return _loss_and_correct(model, ids, machine)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error) or len(ids) == 1 or machine.world.size > 1:
            raise
    half = len(ids) // 2  # outside of the handler, as the traceback keeps tensors alive
    return loss_and_correct(model, ids[:half], machine) + loss_and_correct(model, ids[half:], machine)


def _loss_and_correct(model: GPT, ids: NDArray[np.int64], machine: Machine) -> Tensor:
    inputs = torch.from_numpy(ids[:, :-1].clip(min=0)).to(machine.device)
    targets = torch.from_numpy(ids[:, 1:]).to(machine.device)

    def sums(hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
        logits = head.padded(hidden)
        return torch.stack((cross_entropy_sum(logits, targets), (logits.argmax(-1) == targets).sum()))

    with machine.autocast():
        return model.forward_loss(inputs, targets, sums).double().cpu()


def read_windows(split: Split, cuts: Sequence[tuple[int, int]], context: int) -> NDArray[np.int64]:
    """One window a row, one token longer than the context; short windows are padded with IGNORE."""
    ids = np.full((len(cuts), context + 1), IGNORE, dtype=np.int64)
    for row, (start, count) in enumerate(cuts):
        ids[row, : count + 1] = split.read(start, count + 1)
    return ids
