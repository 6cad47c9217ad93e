"""Everything that one pass over a split can tell: loss, accuracy, precision, recall, F1, calibration, loss by position.

All of them are fractions or nats of *tokens*. Some programs publish an "accuracy" of 50.92 which is the number of
matches in a sequence of 196 tokens; the same model has an accuracy of 0.26 here.

Sums and counts are integers (nats and probabilities in units of 2^-24), so that they add up to the same numbers, bit
for bit, however the windows were divided into batches and among ranks.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.datasets.shards import Split
from fledge.evaluation.confusion import precision_recall_f1
from fledge.evaluation.loss import scored_batches
from fledge.evaluation.sample import Windows, windows
from fledge.evaluation.text_units import TextUnits, text_units
from fledge.losses.cross_entropy import IGNORE, cross_entropy_each
from fledge.model.gpt import GPT
from fledge.model.head import Head

SCALE = 2.0**24  # of the integers that stand for nats and probabilities
MAX_NATS = 2.0**20  # of a token: more, or NaN, comes from damaged weights, and the sums could overflow
BINS = 10  # of the predicted probability, each a tenth wide
TOP = 5
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PositionLoss:
    """The loss of the tokens that were predicted from `first` to `last` tokens before them in their window."""

    first: int
    last: int
    tokens: int
    loss: float


@dataclass(frozen=True)
class ReliabilityBin:
    """The tokens whose prediction had a probability from `low` to `high`."""

    low: float
    high: float
    tokens: int
    confidence: float | None  # mean probability of the predicted token; None: no tokens
    accuracy: float | None  # how often the prediction was right: the same, if the model is calibrated


@dataclass(frozen=True, kw_only=True)
class SplitMetrics:
    """Of a whole split. A prediction is the token with the highest logit."""

    split: str
    loss: float  # nats per token
    perplexity: float
    bits_per_byte: float  # comparable between tokenizers
    accuracy: float  # fraction of tokens that were predicted
    top5_accuracy: float  # fraction of tokens that were among the five highest logits
    precision: float  # mean over tokens of the vocabulary, weighted by how often they occur in the text
    recall: float  # likewise; so it equals the accuracy
    f1: float
    precision_macro: float  # unweighted mean over the tokens that occur in the text or were predicted
    recall_macro: float
    f1_macro: float
    calibration_error: float  # expected calibration error: mean |probability of the prediction - how often it is right|
    unigram_loss: float  # of guessing by how often each token occurs in the split: what a model must beat
    unigram_accuracy: float  # of always predicting the split's most frequent token
    tokens: int
    documents: int
    context: int
    loss_by_position: list[PositionLoss]
    calibration: list[ReliabilityBin]


@dataclass(frozen=True)
class UnitSums:
    """What two models are compared by: sums of each document, or of each block of a long one."""

    units: TextUnits
    nats: Floats  # [U]
    bytes: Ints
    tokens: Ints


class Counts:
    """The sums of the pass; those of the ranks add up."""

    def __init__(self, split: Split, context: int, vocab_size: int, count: int, byte_lengths: Ints) -> None:
        self.byte_lengths, self.units = byte_lengths, text_units(split, byte_lengths)
        self.windows = torch.zeros(count, 4, dtype=torch.float64)  # only nats; added up and rounded as by evaluate_loss
        self.position_nats, self.position_tokens = np.zeros((2, context), dtype=np.int64)
        self.classes = np.zeros((3, vocab_size), dtype=np.int64)  # predicted rightly, predicted, in the text
        self.bins = np.zeros((3, BINS), dtype=np.int64)  # tokens, predicted rightly, probability
        self.unit_sums = np.zeros((3, len(self.units.starts)), dtype=np.int64)  # nats, bytes, tokens
        self.totals = np.zeros(2, dtype=np.int64)  # among the top five, no usable number

    def add(self, first: int, cuts: Windows, ids: Ints, scores: Tensor) -> None:
        """ids [B, T + 1] and scores [B, 4, T] of the windows `cuts`, of which the first is window number `first`."""
        self.windows[first : first + len(cuts), 0] = scores[:, 0].contiguous().sum(1).double()
        targets, rows = ids[:, 1:], np.array([start for start, _ in cuts])
        valid = targets != IGNORE
        positions = (rows[:, None] + 1 + np.arange(targets.shape[1]))[valid]
        nats, confidence, predicted, in_top = (each[valid] for each in scores.double().numpy().swapaxes(0, 1))
        targets, predicted, usable = targets[valid], predicted.astype(np.int64), np.abs(nats) < MAX_NATS
        self.totals += (int(in_top.sum()), int((~usable).sum()))
        right, nats = predicted == targets, fixed_point(np.where(usable, nats, 0))
        confidence = np.where(np.isfinite(confidence), confidence, 0).clip(0, 1)
        size = self.classes.shape[1]
        self.classes += [np.bincount(each, minlength=size) for each in (targets[right], predicted, targets)]
        bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
        for row, weights in zip(self.bins, (None, right, fixed_point(confidence)), strict=True):
            add_at(row, bins, weights)
        places = np.nonzero(valid)[1]
        add_at(self.position_nats, places, nats)
        add_at(self.position_tokens, places)
        unit = self.units.of(positions)
        for row, weights in zip(self.unit_sums, (nats, self.byte_lengths[targets], None), strict=True):
            add_at(row, unit, weights)

    def all_reduce(self, machine: Machine) -> None:
        arrays = (self.position_nats, self.position_tokens, self.classes, self.bins, self.unit_sums, self.totals)
        for tensor in (self.windows, *map(torch.from_numpy, arrays)):  # which share the memory of the arrays
            machine.world.all_reduce_sum(tensor)


def fixed_point(values: Floats) -> Ints:
    return np.rint(values * SCALE).astype(np.int64)


def add_at(sums: Ints, places: Ints, weights: NDArray[np.generic] | None = None) -> None:
    """sums[places] += weights, also where a place occurs several times. None: 1 each."""
    np.add.at(sums, places, 1 if weights is None else weights)


def token_scores(hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
    """[B, 4, T]: nats of each target, probability of the prediction, the prediction, is the target in the top five?

    The probability follows from the nats, so the logits are read without a second softmax.
    """
    logits = head.padded(hidden)
    nats = cross_entropy_each(logits, targets)
    highest, predicted = logits.max(-1)
    target_logits = logits.gather(-1, targets.clamp(min=0).unsqueeze(-1))
    confidence = (highest.float() - target_logits.squeeze(-1).float() - nats).exp()
    number = torch.arange(logits.shape[-1], device=logits.device)
    ranks = [  # a row at a time; of equal logits, that of the smaller id comes first, as in argmax
        torch.where(number < target.unsqueeze(-1), row >= own, row > own).sum(-1)
        for row, own, target in zip(logits, target_logits, targets, strict=True)
    ]
    in_top = torch.stack(ranks) < TOP
    return torch.stack((nats, confidence, predicted.float(), in_top.float()), 1)


def evaluate_split(
    model: GPT,
    split: Split,
    byte_lengths: Ints,
    machine: Machine,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> tuple[SplitMetrics, UnitSums]:
    """byte_lengths [V]: the bytes of text that each token stands for; `progress` wraps the loop over batches."""
    chosen, context = windows(len(split), model.config.context), model.config.context
    counts = Counts(split, context, model.head.out_features, len(chosen), byte_lengths)
    for first, ids, scores in scored_batches(model, split, machine, progress, chosen, token_scores):
        counts.add(first, chosen[first : first + len(ids)], ids, scores)
    counts.all_reduce(machine)
    tokens = len(split) - 1
    if bad := int(counts.totals[1]):
        raise UserError(
            f"the loss of {bad:,} of {tokens:,} tokens is no usable number: the weights are damaged",
            "evaluate an earlier checkpoint: fledge eval RUN@STEP",
        )
    nats, byte_count, unit_tokens = counts.unit_sums
    sums = UnitSums(counts.units, nats / SCALE, byte_count, unit_tokens)
    return _metrics(split.name, context, tokens, counts), sums


def _metrics(name: str, context: int, tokens: int, counts: Counts) -> SplitMetrics:
    nats = float(counts.windows.sum(0)[0])
    loss = nats / tokens
    in_text, probabilities = counts.classes[2], counts.classes[2] / tokens
    weighted, macro = precision_recall_f1(*counts.classes)
    in_bin, right, confidence = counts.bins[0], counts.bins[1], counts.bins[2] / SCALE
    return SplitMetrics(
        split=name,
        loss=loss,
        perplexity=math.exp(loss) if loss < 700 else math.inf,
        bits_per_byte=nats / math.log(2) / max(1, int(counts.unit_sums[1].sum())),
        accuracy=int(counts.classes[0].sum()) / tokens,
        top5_accuracy=int(counts.totals[0]) / tokens,
        precision=weighted.precision,
        recall=weighted.recall,
        f1=weighted.f1,
        precision_macro=macro.precision,
        recall_macro=macro.recall,
        f1_macro=macro.f1,
        calibration_error=float(np.abs(confidence - right).sum() / tokens),
        unigram_loss=float(-(probabilities * np.log(np.where(in_text, probabilities, 1))).sum()),
        unigram_accuracy=float(probabilities.max()),
        tokens=tokens,
        documents=len(counts.units.bytes),
        context=context,
        loss_by_position=_by_position(counts.position_nats, counts.position_tokens),
        calibration=[
            ReliabilityBin(
                i / BINS, (i + 1) / BINS, int(n), confidence[i] / n if n else None, right[i] / n if n else None
            )
            for i, n in enumerate(in_bin)
        ],
    )


def _by_position(nats: Ints, tokens: Ints) -> list[PositionLoss]:
    """Buckets of 1, 2, 3 to 4, 5 to 8, 9 to 16, … tokens of context."""
    ends = [min(2**i, len(nats)) for i in range(len(nats).bit_length() + 1) if 2**i < 2 * len(nats)]
    buckets = []
    for first, last in zip([1, *(end + 1 for end in ends)], ends, strict=False):
        inside = slice(first - 1, last)
        if count := int(tokens[inside].sum()):
            buckets.append(PositionLoss(first, last, count, float(nats[inside].sum() / SCALE / count)))
    return buckets
