"""The sampling settings of all slots as tensors on the device, and the next token of many rows in one call.

    sampler.assign(3, request.sampling, request.prompt)
    tokens = sampler.sample(logits, start=0, indices=[5, 0, 0, 9])     # logits [4, V] of slots 0 … 3
    sampler.release(3)

The rules are in rules.py; each runs only where an active slot asks for it. Nothing here waits for a GPU.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fledge.inference import rules
from fledge.inference.request import BAN, Sampling

MIN_TEMPERATURE = 1e-4  # below this the division could overflow, and the best token is certain anyway
MAX_TEMPERATURE = 1e30  # all tokens are equally likely; beyond fp32, -inf divided by inf would be NaN
GREEDY = Sampling(temperature=0)


def is_greedy(sampling: Sampling) -> bool:
    return sampling.temperature < MIN_TEMPERATURE


def penalizes(sampling: Sampling) -> bool:
    return sampling.repetition_penalty != 1 or sampling.presence_penalty != 0 or sampling.frequency_penalty != 0


class Rows:
    """The settings of some neighbouring slots as tensors: made again when a request joins or leaves."""

    def __init__(self, settings: Sequence[Sampling], vocab_size: int, device: torch.device) -> None:
        def column(values: Sequence[float], dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.tensor(values, dtype=dtype)[:, None].to(device, non_blocking=True)

        self.has_bias = any(each.logit_bias for each in settings)
        self.has_penalty = any(map(penalizes, settings))
        if self.has_penalty:
            self.repetition = column([each.repetition_penalty for each in settings])
            self.presence = column([each.presence_penalty for each in settings])
            self.frequency = column([each.frequency_penalty for each in settings])
        self.chance = [row for row, each in enumerate(settings) if not is_greedy(each)]
        if self.chance:
            drawn = [settings[row] for row in self.chance]
            self.all_chance = len(drawn) == len(settings)
            self.index = torch.tensor(self.chance).to(device, non_blocking=True)
            self.seeds = np.array([each.seed % 2**64 for each in drawn], dtype=np.uint64)
            self.temperature = column([min(each.temperature, MAX_TEMPERATURE) for each in drawn])
            limits = [min(each.top_k or vocab_size, vocab_size) for each in drawn]
            self.top_k = column(limits, torch.long)
            self.largest_k = max((k for k in limits if k < vocab_size), default=0)
            self.has_top_p = any((each.top_p or 1) < 1 for each in drawn)
            self.top_p = column([each.top_p or 1 for each in drawn])
            self.has_min_p = any(each.min_p for each in drawn)
            self.log_min_p = column([math.log(each.min_p) if each.min_p else rules.NEG_INF for each in drawn])

    def keep(self, logits: Tensor) -> Tensor:
        """logits of the rows that draw by chance → the same, of the tokens that may be drawn."""
        logits = logits / self.temperature
        if self.largest_k:
            logits = rules.keep_top_k(logits, self.top_k, self.largest_k)
        if self.has_top_p:
            logits = rules.keep_top_p(logits, self.top_p)
        if self.has_min_p:
            logits = rules.keep_min_p(logits, self.log_min_p)
        return logits

    def draw(self, logits: Tensor, indices: Sequence[int | None]) -> Tensor:
        """logits of the rows that draw by chance → their tokens. `indices`: of the tokens, for all rows."""
        uniform = rules.uniform_numbers(
            self.seeds, np.array([indices[row] or 0 for row in self.chance], dtype=np.uint64)
        )
        numbers = torch.from_numpy(uniform)[:, None]
        if logits.device.type == "cuda":
            numbers = numbers.pin_memory()
        elif logits.device.type == "mps":
            numbers = numbers.float()
        return rules.draw(self.keep(logits), numbers.to(logits.device, non_blocking=True))


class SlotSampler:
    def __init__(self, slots: int, vocab_size: int, device: torch.device) -> None:
        """Tokens from `vocab_size` on are never drawn: the vocabulary of a model may be padded to a round number."""
        self._settings = [GREEDY] * slots
        self._vocab_size, self._device = vocab_size, device
        self._rows: dict[tuple[int, int], Rows] = {}
        self._bias: Tensor | None = None  # [slots, V] each, allocated for the first request that needs them
        self._prompt: Tensor | None = None  # which tokens occur in the prompt
        self._counts: Tensor | None = None  # how often each was generated

    def assign(self, slot: int, sampling: Sampling, prompt: Sequence[int]) -> None:
        """A request begins in a slot."""
        self._settings[slot] = sampling
        self._rows.clear()
        if sampling.logit_bias and self._bias is None:
            self._bias = self._table(torch.float32)
        if penalizes(sampling) and self._counts is None:
            self._counts, self._prompt = self._table(torch.int32), self._table(torch.bool)
        if self._bias is not None:
            self._bias[slot] = 0
            values = [rules.NEG_INF if bias <= BAN else bias for bias in sampling.logit_bias.values()]
            self._bias[slot, list(sampling.logit_bias)] = torch.tensor(values, dtype=torch.float32, device=self._device)
        if self._counts is not None and self._prompt is not None:
            self._counts[slot] = 0
            self._prompt[slot] = False
            self._prompt[slot, [token for token in prompt if token < self._vocab_size]] = True

    def _table(self, dtype: torch.dtype) -> Tensor:
        return torch.zeros(len(self._settings), self._vocab_size, dtype=dtype, device=self._device)

    def release(self, slot: int) -> None:
        """A request has ended."""
        self._settings[slot] = GREEDY
        self._rows.clear()

    def move(self, source: int, target: int) -> None:
        """A request goes on in another slot."""
        self._settings[target] = self._settings[source]
        for table in (self._bias, self._prompt, self._counts):
            if table is not None:
                table[target] = table[source]
        self.release(source)

    @torch.inference_mode()
    def sample(self, logits: Tensor, start: int, indices: Sequence[int | None]) -> Tensor:
        """logits [R, V] of slots start …, and how many tokens each has drawn → tokens [R]; -1: logits not finite.

        An index of None: nothing is drawn for this slot now; its logits and its token mean nothing.
        """
        stop = start + len(indices)
        rows = self._rows.get((start, stop))
        if rows is None:
            rows = self._rows[start, stop] = Rows(self._settings[start:stop], self._vocab_size, self._device)
        logits = logits[:, : self._vocab_size].float()
        counts = self._counts if rows.has_penalty else None
        if rows.has_bias and self._bias is not None:
            logits = logits + self._bias[start:stop]
        if counts is not None and self._prompt is not None:
            counts = counts[start:stop]
            seen = self._prompt[start:stop] | (counts > 0)
            logits = rules.penalize_repetition(logits, seen, rows.repetition)
            logits = rules.penalize_counts(logits, counts, rows.presence, rows.frequency)
        best, tokens = logits.max(-1)
        if rows.chance:
            tokens[rows.index] = rows.draw(logits if rows.all_chance else logits[rows.index], indices)
        if counts is not None:
            drawn = torch.tensor([[index is not None] for index in indices], dtype=counts.dtype)
            counts.scatter_add_(1, tokens[:, None], drawn.to(counts.device, non_blocking=True))
        return tokens.where(best.isfinite(), -1)
