"""Estimates from random batches, as many programs evaluate: windows drawn with replacement, anywhere in the split.

An estimate is the mean over N independent batches, its standard error their standard deviation divided by √N. Two
definitions:

fledge      loss, perplexity, bits per byte and accuracy, as of a whole split
smol-gpt    those that Avenger-py/smol-GPT publishes, each on N batches of its own, in this order:
            loss                    mean cross-entropy; the perplexity is e^loss
            precision, recall, F1   of one token *drawn* from the model's distribution at each position: of each batch,
                                    scikit-learn's averages over the tokens, weighted by how often they occur
            accuracy                drawn tokens that are right *for each window*: a number up to the context

The same seed gives the draws of that program after torch.manual_seed(seed): first the starts of a batch's windows, then
the tokens. On a GPU its own generator draws the tokens, so there the draws differ from those of a CPU.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.datasets.shards import Split
from fledge.evaluation.confusion import precision_recall_f1
from fledge.evaluation.loss import eval_batch_size, loss_and_correct, score_rows
from fledge.evaluation.sample import standard_error
from fledge.model.gpt import GPT

Progress = Callable[[Sequence[int]], Iterable[int]]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    mean: float
    stderr: float | None  # None: a single batch has none

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """The values of independent batches of one size."""
        mean, count = float(np.mean(values)), len(values)
        return cls(mean, float(np.std(values, ddof=1)) / math.sqrt(count) if count > 1 else None)

    @classmethod
    def of_ratio(cls, above: NDArray[np.float64], below: NDArray[np.float64]) -> "Estimate":
        """The sum of `above` divided by that of `below`, both [N]: a value of each batch."""
        labels = np.arange(len(above))
        error = standard_error(above, below, labels, math.inf) if len(above) > 1 else None
        return cls(float(above.sum() / below.sum()), error)

    def exp(self) -> "Estimate":
        """e^x, to first order in the error."""
        value = math.exp(self.mean) if self.mean < 700 else math.inf
        return Estimate(value, None if self.stderr is None else value * self.stderr)


@dataclass(frozen=True, kw_only=True)
class EstimatedMetrics:
    definition: str  # fledge or smol-gpt
    split: str
    batches: int
    batch_size: int
    seed: int
    context: int
    metrics: Mapping[str, Estimate]


class RandomBatches:
    """Draws windows and tokens."""

    def __init__(self, split: Split, context: int, rows: int, device: str, seed: int) -> None:
        if len(split) <= context:
            raise UserError(
                f"the {split.name} split has {len(split):,} tokens: no window of {context:,} and the token after it",
                "evaluate the whole split: leave --batches and --metrics out",
            )
        self._split, self._context, self._rows = split, context, rows
        self._tokens = torch.Generator(device).manual_seed(seed)
        self._starts = self._tokens if device == "cpu" else torch.Generator().manual_seed(seed)

    def draw(self) -> Ints:
        """A batch of windows, each with the token after it. [B, T + 1]"""
        starts = torch.randint(len(self._split) - self._context, (self._rows,), generator=self._starts)
        return self._split.rows(starts.tolist(), self._context + 1)

    def sample(self, logits: Tensor) -> Tensor:
        """One token for each position: [N, V] → [N]"""
        return torch.multinomial(logits.float().softmax(-1), 1, generator=self._tokens).squeeze(1)


def estimate_loss(
    model: GPT, batches: RandomBatches, count: int, byte_lengths: Ints, machine: Machine, progress: Progress = iter
) -> dict[str, Estimate]:
    """byte_lengths [V]: the bytes of text that each token stands for."""
    sums = np.zeros((count, 4))
    for number in progress(range(count)):
        ids = batches.draw()
        lengths = byte_lengths[ids[:, 1:]]
        sums[number] = *_nats_and_correct(model, ids, machine), lengths.size, lengths.sum()
    nats, correct, tokens, length = sums.T
    loss, bits = Estimate.of_ratio(nats, tokens), Estimate.of_ratio(nats / math.log(2), np.maximum(length, 1))
    return {
        "loss": loss,
        "perplexity": loss.exp(),
        "bits_per_byte": bits,
        "accuracy": Estimate.of_ratio(correct, tokens),
    }


def estimate_as_smol_gpt(
    model: GPT, batches: RandomBatches, count: int, machine: Machine, progress: Progress = iter
) -> dict[str, Estimate]:
    numbers = iter(progress(range(3 * count)))
    losses, scores, matches = [], [], []
    for _ in islice(numbers, count):
        ids = batches.draw()
        losses.append(_nats_and_correct(model, ids, machine)[0] / ids[:, 1:].size)
    for _ in islice(numbers, count):
        targets, drawn = _targets_and_drawn(model, batches, machine)
        V = model.head.out_features
        sums = [np.bincount(each, minlength=V) for each in (targets[targets == drawn], drawn, targets)]
        weighted, _ = precision_recall_f1(*sums)
        scores.append((weighted.precision, weighted.recall, weighted.f1))
    for _ in numbers:
        targets, drawn = _targets_and_drawn(model, batches, machine)
        matches.append(int((targets == drawn).sum()) * model.config.context / len(targets))
    loss = Estimate.of(losses)
    named = zip(("precision", "recall", "f1"), map(Estimate.of, zip(*scores, strict=True)), strict=True)
    return {"loss": loss, "perplexity": loss.exp(), **dict(named), "accuracy": Estimate.of(matches)}


def _nats_and_correct(model: GPT, ids: Ints, machine: Machine) -> tuple[float, float]:
    """Sums over a batch: the loss, and the tokens that got the highest logit. A few windows at a time."""
    size = eval_batch_size(model.config.context, model.head.out_features, machine)
    parts = [ids[start : start + size] for start in range(0, len(ids), size)]
    sums = torch.cat([score_rows(model, each[:, :-1], each[:, 1:], machine, loss_and_correct) for each in parts])
    nats, correct = sums.double().sum(0).tolist()
    if not math.isfinite(nats):
        raise UserError(
            "the loss is no usable number: the weights are damaged",
            "evaluate an earlier checkpoint: fledge eval RUN@STEP",
        )
    return nats, correct


@torch.no_grad()
def _targets_and_drawn(model: GPT, batches: RandomBatches, machine: Machine) -> tuple[Ints, Ints]:
    """Of a new batch, each [B · T]. All of its probabilities are in memory at once: the draws depend on that."""
    ids = batches.draw()
    with machine.autocast():
        logits = model(torch.from_numpy(ids[:, :-1]).to(machine.device)).flatten(0, 1)
    return ids[:, 1:].reshape(-1), batches.sample(logits).cpu().numpy()
