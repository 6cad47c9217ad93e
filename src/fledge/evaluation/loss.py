"""How surprised is the model by a whole split? One deterministic pass, every token asked once.

The split is cut into windows of one context, side by side; the last is shorter. Each token but the very first is a
target exactly once, seen with what came before it in its window. Ranks take portions in turn.
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

TOKENS_AT_ONCE = {"cpu": 4096, "mps": 16_384, "cuda": 16_384}  # a CPU is faster, too, where its caches hold more of it
NOTHING = (0, 0)  # a window that asks nothing: ranks that share a model must call it equally often
SCORES_AT_ONCE = 2**26  # a score for every token and every word of the vocabulary: a quarter of a gigabyte


@dataclass(frozen=True)
class LossResult:
    split: str
    loss: float  # nats per token
    perplexity: float
    bits_per_byte: float  # comparable between tokenizers
    accuracy: float  # share of tokens that were the model's first guess
    tokens: int
    context: int


def windows(length: int, context: int) -> list[tuple[int, int]]:
    """(start, targets) of each window: [0, context], [context, 2·context], …"""
    return [(start, min(context, length - 1 - start)) for start in range(0, length - 1, context)]


def rows_at_once(context: int, vocab_size: int, machine: Machine) -> int:
    """How many windows are judged at once."""
    return max(1, min(TOKENS_AT_ONCE[machine.device], SCORES_AT_ONCE // vocab_size) // context)


@torch.no_grad()  # not inference_mode: weights that ranks have borrowed in it could never be learned from
def evaluate_loss(
    model: GPT,
    split: Split,
    lengths: NDArray[np.int64],
    machine: Machine,
    watch: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> LossResult:
    """`lengths` says how many bytes of text each token stands for; `watch` may show how far it has come."""
    context = model.config.context
    cuts = windows(len(split), context)
    rows, world = rows_at_once(context, lengths.size, machine), machine.world
    sums = torch.zeros(4, dtype=torch.float64)
    was_training = model.training
    model.eval()
    try:
        for turn in watch(range(0, len(cuts), rows * world.size)):
            first = turn + world.rank * rows
            ids = rows_of(split, cuts[first : first + rows] or [NOTHING], context)
            valid = ids[:, 1:][ids[:, 1:] != IGNORE]
            sums += torch.cat((loss_and_hits(model, ids, machine), torch.tensor([len(valid), lengths[valid].sum()])))
    finally:
        model.train(was_training)
    all_nats, all_right, all_counted, all_spelled = world.all_reduce_sum(sums).tolist()
    loss = all_nats / all_counted
    bits = all_nats / math.log(2) / max(1, all_spelled)
    perplexity = math.exp(loss) if loss < 700 else math.inf
    return LossResult(split.name, loss, perplexity, bits, all_right / all_counted, int(all_counted), context)


def loss_and_hits(model: GPT, ids: NDArray[np.int64], machine: Machine) -> Tensor:
    """ids [B, T + 1] → the summed loss, and how often the right token was the model's first guess. [2]

    Out of memory: one half after the other. Ranks that share a model must call it equally often, so they give up.
    """
    try:
        return _loss_and_hits(model, ids, machine)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error) or len(ids) == 1 or machine.world.size > 1:
            raise
    half = len(ids) // 2  # outside of the handler: what the error refers to still holds memory
    return loss_and_hits(model, ids[:half], machine) + loss_and_hits(model, ids[half:], machine)


def _loss_and_hits(model: GPT, ids: NDArray[np.int64], machine: Machine) -> Tensor:
    inputs = torch.from_numpy(ids[:, :-1].clip(min=0)).to(machine.device)
    targets = torch.from_numpy(ids[:, 1:]).to(machine.device)

    def sums(hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
        logits = head.padded(hidden)
        return torch.stack((cross_entropy_sum(logits, targets), (logits.argmax(-1) == targets).sum()))

    with machine.autocast():
        return model.forward_loss(inputs, targets, sums).double().cpu()


def rows_of(split: Split, cuts: Sequence[tuple[int, int]], context: int) -> NDArray[np.int64]:
    """A window a row, one token longer than the context; what a short window lacks is IGNORE."""
    ids = np.full((len(cuts), context + 1), IGNORE, dtype=np.int64)
    for row, (start, count) in enumerate(cuts):
        ids[row, : count + 1] = split.read(start, count + 1)
    return ids
