"""The reference decoder: the model's own code and the KV cache, as in training. Faster paths are checked against it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fledge.core.device import Machine
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.kv_cache import KVCache


class ReferenceDecoder:
    """A `Decoder` (decoder.py). The weights stay in their own dtype; autocast chooses that of the products."""

    def __init__(self, model: GPT, slots: int, machine: Machine) -> None:
        self.model = model.eval()
        self.config: ModelConfig = model.config
        self.device = torch.device(machine.device)
        self.slots = slots
        self.name = f"reference {machine.dtype}"
        self._machine = machine
        self._cache = KVCache.allocate(model.config, slots, machine.torch_dtype, machine.device)

    @torch.inference_mode()
    def prefill(self, slot: int, start: int, ids: Tensor) -> Tensor:
        row = self._cache.rows(slot, slot + 1)
        row.lengths[0] = start
        with self._machine.autocast():
            return self.model.hidden(ids[None].to(self.device), row)[0]

    @torch.inference_mode()
    def head(self, hidden: Tensor) -> Tensor:
        with self._machine.autocast():
            return self.model.head(hidden)

    @torch.inference_mode()
    def decode(self, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
        rows = self._cache.rows(0, len(lengths))
        rows.lengths.copy_(torch.tensor(lengths))
        with self._machine.autocast():
            return self.model.next_token_logits(tokens[:, None], rows)

    @torch.inference_mode()
    def recompute(self, ids: Tensor) -> Tensor:
        with self._machine.autocast():
            return self.model.next_token_logits(ids)

    @torch.inference_mode()
    def copy_prefix(self, source: int, target: int, length: int) -> None:
        self._cache.store[:, :, target, :, :length] = self._cache.store[:, :, source, :, :length]
        self._cache.tokens[target, :length] = self._cache.tokens[source, :length]
