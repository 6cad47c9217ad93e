"""How likely a model finds a continuation after a context: log-probabilities of pairs of token ids, and of whole texts.

    scorer = Scorer(model, tokenizer, machine)
    yes, no = scorer.score([scorer.encode_pair("2 + 3 =", " 5"), scorer.encode_pair("2 + 3 =", " 6")])
    scorer.rolling([scorer.encode(text)])               # a text of any length

The same rules as in lm-evaluation-harness: what does not fit in the context is cut off on the left; a continuation (or
a text) longer than the context is scored in pieces of one context, the last one with as much text before it as fits.

Pairs are sorted by length and padded on the right, where causal attention does not look. So a result depends neither on
the other pairs nor on the number of processes, but for rounding.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import torch
from torch import Tensor

from fledge.core.device import Machine
from fledge.evaluation.loss import MAX_LOGITS, MAX_TOKENS, score_rows
from fledge.losses.cross_entropy import IGNORE
from fledge.losses.logprobs import logits_logprobs
from fledge.model.gpt import GPT
from fledge.model.head import Head
from fledge.tokenizers.base import Tokenizer, byte_lengths

Ids = Sequence[int]
Pair = tuple[Ids, Ids]  # context, continuation


@dataclass(frozen=True)
class Likelihood:
    """Of a continuation, given its context."""

    logprob: float  # nats, summed over its tokens
    is_greedy: bool  # each token is the most likely one: greedy decoding would generate it
    tokens: int
    bytes: int  # of text


@dataclass(frozen=True)
class _Piece:
    """Part of a pair that the model sees at once: the last `scored` ids are targets."""

    pair: int  # its number
    ids: Ids  # one more than inputs
    scored: int

    @property
    def length(self) -> int:
        return len(self.ids) - 1


class Scorer:
    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        machine: Machine,
        progress: Callable[[Sequence[int]], Iterable[int]] = iter,
    ) -> None:
        """`progress` wraps the loop over batches."""
        self.model, self.tokenizer, self.machine, self.progress = model, tokenizer, machine, progress
        self.context = model.config.context
        self._byte_lengths = byte_lengths(tokenizer)
        end = tokenizer.end_of_text
        self.start = [] if end is None else [end]  # what a document begins with
        self.prefix = 0 if end is None else end  # stands for an empty context

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).tolist()

    def encode_pair(self, context: str, continuation: str) -> Pair:
        """Encoded as one text and then divided. Spaces at the end of the context go to the continuation, as most
        tokenizers join a space and the word that follows."""
        stripped = context.rstrip()
        ids, length = self.encode(context + continuation), len(self.encode(stripped))
        return ids[:length], ids[length:]

    def rolling(self, texts: Sequence[Ids]) -> list[Likelihood]:
        """Whole texts; each token is predicted once, the first from the end of the text before."""
        return self.score([((), text) for text in texts])

    def score(self, pairs: Sequence[Pair]) -> list[Likelihood]:
        pieces = [piece for number, pair in enumerate(pairs) for piece in self._pieces(number, *pair)]
        pieces.sort(key=attrgetter("length"), reverse=True)  # out of memory: at once, or never
        batches, world = self._batches(pieces), self.machine.world
        sums = torch.zeros(len(pairs), 2, dtype=torch.float64)  # log-probability, correct tokens
        was_training = self.model.training
        self.model.eval()
        try:
            for number in self.progress(range(world.rank, len(batches), world.size)):
                batch = batches[number]
                sums.index_add_(0, torch.tensor([piece.pair for piece in batch]), self._score_batch(batch))
        finally:
            self.model.train(was_training)
        rows = world.all_reduce_sum(sums).tolist()
        return [
            Likelihood(logprob, correct == len(ids), len(ids), int(self._byte_lengths[list(ids)].sum()))
            for (logprob, correct), (_, ids) in zip(rows, pairs, strict=True)
        ]

    def _pieces(self, number: int, context: Ids, continuation: Ids) -> list[_Piece]:
        before, size = len(context) or 1, self.context
        ids = [*(context or [self.prefix]), *continuation]
        ends = [min(start + size, len(ids)) for start in range(before, len(ids), size)]
        starts = range(before, len(ids), size)
        return [
            _Piece(number, ids[max(0, end - size - 1) : end], end - start)
            for start, end in zip(starts, ends, strict=True)
        ]

    def _batches(self, pieces: Sequence[_Piece]) -> list[Sequence[_Piece]]:
        batches, at, budget = [], 0, MAX_TOKENS[self.machine.device]
        while at < len(pieces):
            rows = max(1, budget // pieces[at].length)
            batches.append(pieces[at : at + rows])
            at += rows
        return batches

    def _score_batch(self, batch: Sequence[_Piece]) -> Tensor:
        """→ [B, 2] in float64: the summed log-probability, and how many tokens were the most likely ones."""
        length = batch[0].length
        inputs = np.zeros((len(batch), length), dtype=np.int64)
        targets = np.full_like(inputs, IGNORE)
        for row, piece in enumerate(batch):
            end, first = piece.length, piece.length - piece.scored
            inputs[row, :end] = piece.ids[:-1]
            targets[row, first:end] = piece.ids[first + 1 :]
        return score_rows(self.model, inputs, targets, self.machine, target_scores).double().sum(1)


def target_scores(hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
    """The log-probability of each target and whether it is the most likely token, [B, T, 2]; 0 where there is none.

    The head sees the targets only, as contexts are usually much longer than continuations.
    """
    scores = torch.zeros(*targets.shape, 2, device=hidden.device)
    wanted = targets != IGNORE
    chunk = max(1, MAX_LOGITS // head.out_features)
    parts = []
    for vectors, ids in zip(hidden[wanted].split(chunk), targets[wanted].split(chunk), strict=True):
        logits = head.padded(vectors)
        parts.append(torch.stack((logits_logprobs(logits, ids), (logits.argmax(-1) == ids).float()), -1))
    scores[wanted] = torch.cat(parts)
    return scores
