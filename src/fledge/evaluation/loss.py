"""The loss of a model on a split, or on a sample of it: deterministic, every token counted once.

The split is cut into windows of one context, side by side; the last one is shorter. Each token but the very first is a
target exactly once, predicted from the tokens before it in its window. Batches of windows go to the ranks in turn.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fledge.core.device import Machine
from fledge.core.errors import out_of_memory
from fledge.datasets.shards import Split
from fledge.evaluation.sample import Windows, clusters, margin_of_error, windows
from fledge.losses.cross_entropy import IGNORE, cross_entropy_each
from fledge.model.gpt import GPT, HeadLoss
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
    fraction: float = 1.0  # of the split that was evaluated; below 1: a sample
    margin: float | None = None  # half of a sample's 95 % interval for the loss; None: no sample, or too small

    def metrics(self, group: str = "") -> dict[str, float]:
        """What is logged: `val/loss`, `val/bits_per_byte`, … `group`: replaces the name of the split."""
        group = group or self.split
        margin = {} if self.margin is None else {f"{group}/loss_margin": self.margin}
        names = ("perplexity", "bits_per_byte", "accuracy")
        return {f"{group}/loss": self.loss, **margin, **{f"{group}/{name}": getattr(self, name) for name in names}}


def eval_batch_size(context: int, vocab_size: int, machine: Machine) -> int:
    """How many windows go through the model at once."""
    return max(1, min(MAX_TOKENS[machine.device], MAX_LOGITS // vocab_size) // context)


def evaluate_loss(
    model: GPT,
    split: Split,
    byte_lengths: NDArray[np.int64],
    machine: Machine,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
    sample: Windows | None = None,
) -> LossResult:
    """`byte_lengths` [V]: the bytes of text that each token stands for; `progress` wraps the loop over batches.

    sample: the windows to evaluate; None: all of them.
    """
    context, targets = model.config.context, len(split) - 1
    chosen = windows(len(split), context) if sample is None else sample
    sums = window_sums(model, split, byte_lengths, machine, progress, chosen)
    nats, correct, tokens, length = sums.sum(0).tolist()
    margin = None
    if tokens < targets:
        margin = margin_of_error(sums[:, 0].numpy(), sums[:, 2].numpy(), clusters(split, chosen), targets)
    loss = nats / tokens
    return LossResult(
        split=split.name,
        loss=loss,
        perplexity=math.exp(loss) if loss < 700 else math.inf,
        bits_per_byte=nats / math.log(2) / max(1, length),
        accuracy=correct / tokens,
        tokens=int(tokens),
        context=context,
        fraction=tokens / targets,
        margin=margin,
    )


def window_sums(
    model: GPT,
    split: Split,
    byte_lengths: NDArray[np.int64],
    machine: Machine,
    progress: Callable[[Sequence[int]], Iterable[int]],
    chosen: Windows,
) -> Tensor:
    """Nats, correct tokens, tokens and bytes of each window: [W, 4]. Every rank gets all of them."""
    sums = torch.zeros(len(chosen), 4, dtype=torch.float64)
    for first, ids, nats_and_correct in scored_batches(model, split, machine, progress, chosen, loss_and_correct):
        valid = ids[:, 1:] != IGNORE
        lengths = np.where(valid, byte_lengths[ids[:, 1:].clip(min=0)], 0)
        counts = torch.from_numpy(np.stack((valid.sum(1), lengths.sum(1)), 1))
        sums[first : first + len(ids)] = torch.cat((nats_and_correct.double(), counts), 1)
    return machine.world.all_reduce_sum(sums)


def scored_batches(
    model: GPT,
    split: Split,
    machine: Machine,
    progress: Callable[[Sequence[int]], Iterable[int]],
    chosen: Windows,
    score: HeadLoss,
) -> Iterator[tuple[int, NDArray[np.int64], Tensor]]:
    """The batches of this rank: the number of the first window, ids [B, T + 1], and what `score` gives, with B rows."""
    context, world = model.config.context, machine.world
    rows = eval_batch_size(context, model.head.out_features, machine)
    was_training = model.training
    model.eval()
    try:
        for start in progress(range(0, len(chosen), rows * world.size)):
            first = start + world.rank * rows
            cuts = chosen[first : first + rows]
            ids = read_windows(split, cuts or [PADDING], context)
            scores = score_rows(model, ids[:, :-1].clip(min=0), ids[:, 1:], machine, score)
            if cuts:
                yield first, ids, scores
    finally:
        model.train(was_training)


@torch.no_grad()  # inference_mode would mark FSDP's gathered parameters as inference tensors
def score_rows(
    model: GPT, inputs: NDArray[np.int64], targets: NDArray[np.int64], machine: Machine, score: HeadLoss
) -> Tensor:
    """inputs and targets [B, T] → what `score` gives, on the CPU.

    Out of memory: retry with half of the rows at a time. Several ranks must call the model equally often: they fail.
    """
    try:
        with machine.autocast():
            x, y = (torch.from_numpy(ids).to(machine.device) for ids in (inputs, targets))
            return model.forward_loss(x, y, score).cpu()
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error) or len(inputs) == 1 or machine.world.size > 1:
            raise
    halves = zip(np.array_split(inputs, 2), np.array_split(targets, 2), strict=True)
    # Outside of the handler, as the traceback keeps tensors alive.
    return torch.cat([score_rows(model, *half, machine, score) for half in halves])


def loss_and_correct(hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
    """The summed loss of each row, and the number of its targets that got the highest logit. [B, 2]"""
    logits = head.padded(hidden)
    nats, correct = cross_entropy_each(logits, targets), logits.argmax(-1) == targets
    return torch.stack((nats.sum(1), correct.sum(1)), 1)


def read_windows(split: Split, cuts: Sequence[tuple[int, int]], context: int) -> NDArray[np.int64]:
    """One window a row, one token longer than the context; short windows are padded with IGNORE."""
    ids = np.full((len(cuts), context + 1), IGNORE, dtype=np.int64)
    for row, (start, count) in enumerate(cuts):
        ids[row, : count + 1] = split.read(start, count + 1)
    return ids
