"""The interface between the engine and the code that computes: a model with one KV cache for a fixed number of slots.

    hidden = decoder.prefill(slot=3, start=0, ids=prompt[:128])      # chunks of a prompt, while others decode
    logits = decoder.decode(tokens, lengths)                         # one more token for slots 0 … R-1, in one call

The engine keeps the lengths; a decoder keeps what it has computed for each slot and position, so that a prefix which
a new request shares with the tokens of a slot is not computed again.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from fledge.model.config import ModelConfig


class Decoder(Protocol):
    @property
    def name(self) -> str:
        """The path: "reference float32", "packed bfloat16", "CUDA graph bfloat16", …"""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def slots(self) -> int: ...

    def prefill(self, slot: int, start: int, ids: Tensor) -> Tensor:
        """Compute tokens start … start+T-1 of a slot, ids [T]; earlier ones are in the cache. → hidden [T, C]"""

    def head(self, hidden: Tensor) -> Tensor:
        """hidden [T, C] → logits [T, V]"""

    def decode(self, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
        """tokens [R] on the device follow the first lengths[r] tokens of slots 0 … R-1 → logits [R, V].

        The logits may be overwritten by the next call. A slot that is not in use can have length 0.
        """

    def recompute(self, ids: Tensor) -> Tensor:
        """Whole texts, ids [R, T] on the device, from position 0 → logits after their last tokens [R, V].

        Neither reads nor writes the cache.
        """

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Slot `target` starts with the first `length` tokens of slot `source`, without computing them."""
