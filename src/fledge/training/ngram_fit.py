"""Fit embedding, head and bigram table to the n-gram counts of the text, before the first step (train.ngram_steps).

Which token follows a token, and which follows a pair, is counted in a second or two, in the part of the text that the
run will not visit. The rows of a batch are contexts, each with all the tokens that followed it there: one step tells
what thousands of windows would.

    a      norm(embed[a])                   →  head, fitted to  n(a .) / n(a)
    a b    norm(embed[b] + bigram[a b])     →  head, fitted to  (n(a b .) + PRIOR · P(. | b)) / (n(a b) + PRIOR)

The blocks take no part: training adds what counts do not know. The weights are the start of a run, as those of --init.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fledge.checkpoint.state import State, initial_state, weights_of
from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.core.malloc import keep_freed_memory
from fledge.core.progress import progress
from fledge.datasets.shards import Split
from fledge.model.bigram import Bigram, FrequentBigram
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.training.config import Settings
from fledge.training.parallel import use_deterministic_algorithms
from fledge.training.setup import window_sampler

MAX_TOKENS = 4_000_000  # that are counted
MAX_VOCABULARY = 2**21  # three tokens make one number of 63 bits
LEAST_UNVISITED = 0.05  # share of the text
LENGTHENED = 1.25  # where time sets the number of steps, it may grow
MAX_ROWS, MAX_ENTRIES = 4096, 2**24  # of a batch [rows, V]
BIGRAM_SHARE = 0.4  # of the steps, where there are pairs to fit, too
FREQUENT = 8  # times that a pair must occur in the text, for each pass over it, to have a row of its own
LEAST_FREQUENT = 2
PRIOR = 5.0  # as if each pair had also been seen so often with what follows its second token alone
LR, PAIR_LR, FULL_RATE_WIDTH = 0.02, 0.005, 256  # lower for wider models
BETAS, EPS = (0.8, 0.95), 1e-10

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
Shares = tuple[Ids, Ids, Floats]  # place of a context in a batch, token, probability


def check_ngram_fit(model: ModelConfig) -> None:
    """Refuse models in which embedding, norm and head alone are no model, and n-grams that cannot be numbered."""
    if (model.vocab_size or 0) > MAX_VOCABULARY:
        raise UserError(
            f"train.ngram_steps is for up to {MAX_VOCABULARY:,} tokens, and the vocabulary has {model.vocab_size:,}",
            "leave it out: --train.ngram_steps 0",
        )
    if model.block != "pre_norm" or not model.final_norm:
        raise UserError(
            "train.ngram_steps fits a model without its blocks, which needs model.block pre_norm and a final norm",
            "leave it out: --train.ngram_steps 0",
        )


def check_pairs(settings: Settings) -> None:
    """Refuse a new model with a table of frequent pairs that nobody looks for."""
    model = settings.model
    if not model.has_all_bigrams and model.bigram_pairs == "frequent" and not settings.train.ngram_steps:
        raise UserError(
            "model.bigram_pairs = frequent, but no step on n-gram counts, which find them",
            "use --model.bigram_pairs hashed",
        )


def ngram_state(settings: Settings, machine: Machine, split: Split) -> State:
    """The start of a run: a new model whose embedding, head and bigram table know the n-grams of the split."""
    use_deterministic_algorithms()
    if machine.device == "cpu":
        keep_freed_memory()
    if machine.dtype == "float16":  # in which small gradients would be 0
        machine = replace(machine, dtype="float32")
    seed = settings.train.seed
    model = build(settings.model, seed).to(machine.device)
    part = unvisited_part(settings, split)
    passes = settings.train.steps * settings.step_tokens / max(1, len(split))
    counted = min(len(part), MAX_TOKENS) / max(1, len(split))
    fit_ngrams(model, part, settings.train.ngram_steps, seed, machine, FREQUENT * passes * counted)
    return initial_state(weights_of(model.cpu()), seed)


def unvisited_part(settings: Settings, split: Split) -> Split:
    """The windows that the planned steps will not train on, side by side, or as many of them as are counted. Counts of
    the others would hold the answers that training asks for: the blocks would learn to trust them, and new text has
    none.

    The whole split, where the run visits nearly all of it, as every step after the first epoch knows its answers; and
    where windows overlap or are not shuffled.
    """
    sampler, context = window_sampler(settings, len(split)), settings.train_context
    longer = LENGTHENED if settings.train.minutes else 1.0
    visited = round(longer * settings.train.steps) * settings.train.batch
    unvisited = sampler.windows_per_epoch - visited
    apart = settings.data.order == "shuffled" and sampler.stride >= context
    if not apart or unvisited * context < LEAST_UNVISITED * len(split):
        return split
    starts = np.sort(sampler.starts(visited, min(unvisited, max(1, MAX_TOKENS // context))))
    return Split(split.name, [split.rows(starts, context).ravel()], [np.zeros(1, np.int64)])


def fit_ngrams(model: GPT, split: Split, steps: int, seed: int, machine: Machine, least: float = 1) -> None:
    """Change the weights of a new model by `steps` updates on counts. least: times that a frequent pair occurs."""
    fit, ids = NgramFit(model, machine, np.random.default_rng(seed)), split.sample(MAX_TOKENS)
    one = count_ngrams(ids[:-1], ids[1:], fit.vocab_size)
    if not isinstance(model.bigram, Bigram):
        fit.tokens(one, steps)
        return
    two = count_ngrams(ids[:-2] * fit.vocab_size + ids[1:-1], ids[2:], fit.vocab_size)
    if isinstance(model.bigram, FrequentBigram):
        choose_pairs(model.bigram, two, least)
    repeated = bool((two.totals > 1).any())
    first = round(BIGRAM_SHARE * steps) if repeated else steps
    fit.tokens(one, first)
    if repeated:
        fit.pairs(model.bigram, one, two, steps - first)


def choose_pairs(bigram: FrequentBigram, two: "Counts", least: float) -> None:
    """Give the most frequent pairs rows of their own: those that were counted at least so often."""
    known = np.flatnonzero(two.totals >= max(LEAST_FREQUENT, round(least)))
    most = known[np.argsort(-two.totals[known], kind="stable")][: bigram.rows - 1]  # the last row is for all others
    first, second = np.divmod(two.contexts[most], two.vocab_size)
    pairs = np.unique(first * bigram.vocab_size + second)  # as the table numbers them, ascending
    bigram.pairs[: len(pairs)] = torch.from_numpy(pairs)


class NgramFit:
    def __init__(self, model: GPT, machine: Machine, generator: np.random.Generator) -> None:
        self.model, self.machine, self.generator = model, machine, generator
        self.vocab_size, self.rate = model.embed.num_embeddings, min(1.0, FULL_RATE_WIDTH / model.config.n_embd)
        self.weights = list(dict.fromkeys([model.embed.weight, *model.head.parameters()]))  # once, where tied

    def tokens(self, one: "Counts", steps: int) -> None:
        """Embedding and head: what follows a token."""

        def logits_and_gradient() -> tuple[Tensor, Tensor]:
            rows, weights = one.draw(self.generator)
            logits = self.logits(self.model.embed(self.on_device(one.contexts[rows])))
            return logits, self.gradient(logits, weights, one.shares(rows))

        self.minimize(logits_and_gradient, self.weights, LR, steps)

    def pairs(self, bigram: Bigram, one: "Counts", two: "Counts", steps: int) -> None:
        """All three: what follows two tokens. Pairs that occur once say hardly more than `one` does."""
        number = np.zeros(self.vocab_size, np.int64)  # of a token among the contexts of `one`
        number[one.contexts] = np.arange(len(one.contexts))

        def logits_and_gradient() -> tuple[Tensor, Tensor]:
            rows, weights = two.draw(self.generator, least=2)
            first, second = np.divmod(two.contexts[rows], self.vocab_size)
            pair = bigram.row(self.on_device(first * bigram.vocab_size + second))
            logits = self.logits(self.model.embed(self.on_device(second)) + F.embedding(pair, bigram.weight))
            prior = (PRIOR / (two.totals[rows] + PRIOR)).astype(np.float32)
            shares = two.shares(rows, scale=1 - prior), one.shares(number[second], scale=prior)
            return logits, self.gradient(logits, weights, *shares)

        self.minimize(logits_and_gradient, [*self.weights, bigram.weight], PAIR_LR, steps)

    def logits(self, x: Tensor) -> Tensor:
        """Embedded contexts [N, C], at random positions → [N, V]"""
        positions = self.on_device(self.generator.integers(self.model.config.context, size=len(x)))
        with self.machine.autocast():
            return self.model.head(self.model.norm(self.model.positions(x, positions)))

    def gradient(self, logits: Tensor, weights: Floats, *shares: Shares) -> Tensor:
        """Of the mean cross-entropy, by the logits: the model's probabilities less the shares, weighted. [N, V]

        shares: add up to what followed each of the contexts.
        """
        difference = logits.detach().float().softmax(-1)
        for row, following, values in shares:
            difference[self.on_device(row), self.on_device(following)] -= self.on_device(values)
        return difference.mul_(self.on_device(weights).unsqueeze(1)).to(logits.dtype)

    def minimize(
        self,
        logits_and_gradient: Callable[[], tuple[Tensor, Tensor]],
        weights: list[nn.Parameter],
        lr: float,
        steps: int,
    ) -> None:
        """Adam; the learning rate falls to 0."""
        optimizer = torch.optim.Adam(weights, betas=BETAS, eps=EPS, fused=True)
        for step in progress(range(steps), "fitting embedding and head to the n-grams of the text"):
            optimizer.param_groups[0]["lr"] = lr * self.rate * (1 - step / steps)
            logits, gradient = logits_and_gradient()
            logits.backward(gradient, inputs=weights)
            optimizer.step()
            optimizer.zero_grad()

    def on_device(self, numbers: Ids | Floats) -> Tensor:
        return torch.from_numpy(numbers).to(self.machine.device)


def batch_rows(vocab_size: int) -> int:
    """Contexts of a step."""
    return min(MAX_ROWS, max(1, MAX_ENTRIES // vocab_size))


@dataclass(frozen=True)
class Counts:
    """How often each token followed each context. Contexts are numbers, in ascending order."""

    contexts: Ids  # [N]
    totals: Ids  # [N]
    starts: Ids  # [N + 1]: what followed context i is following[starts[i] : starts[i + 1]]
    following: Ids
    counts: Ids
    vocab_size: int

    def draw(self, generator: np.random.Generator, least: int = 1) -> tuple[Ids, Floats]:
        """Contexts for a batch, and their weights in its mean. least: of `totals`.

        All, weighted by their totals, if they fit; else drawn by them, without replacement.
        """
        known, rows = np.flatnonzero(self.totals >= least), batch_rows(self.vocab_size)
        if len(known) <= rows:
            return known, (self.totals[known] / self.totals[known].sum()).astype(np.float32)
        waiting = generator.exponential(size=len(known)) / self.totals[known]
        return known[np.argpartition(waiting, rows)[:rows]], np.full(rows, 1 / rows, np.float32)

    def shares(self, rows: Ids, scale: Floats | None = None) -> Shares:
        """P(. | context) for each of the rows, where it is not 0, times a number for each."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        row = np.repeat(np.arange(len(rows)), lengths)
        before = np.cumsum(lengths) - lengths  # entries of earlier rows
        places = np.arange(len(row)) + np.repeat(self.starts[rows] - before, lengths)
        each = (1 if scale is None else scale) / self.totals[rows]
        return row, self.following[places], (self.counts[places] * each[row]).astype(np.float32)


def count_ngrams(contexts: Ids, following: Ids, vocab_size: int) -> Counts:
    """contexts, following [n]: each context with the token after it."""
    ngrams, counts = np.unique(contexts * vocab_size + following, return_counts=True)
    known, starts = np.unique(ngrams // vocab_size, return_index=True)
    totals = np.add.reduceat(counts, starts) if len(counts) else counts
    return Counts(known, totals, np.append(starts, len(ngrams)), ngrams % vocab_size, counts, vocab_size)
