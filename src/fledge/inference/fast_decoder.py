"""The decoder for CPUs, Apple GPUs, and CUDA without graphs: a lean GPT and a static cache.

    R  rows: slots 0 … R-1      S  tokens that they attend to      N  new tokens

The cache of a layer is [slots, 2K, context, D], keys before values: the keys of a head lie together, which attention
on a CPU reads twice as fast as keys that lie token by token. A token's keys and values are written by one call:
`rows` names the 2K rows of the flat cache [slots · 2K · context, D] that they go to.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fledge.inference.lean import Attend, LeanGPT
from fledge.model.attention import sdpa_attention
from fledge.model.config import ModelConfig


class FastDecoder:
    def __init__(self, model: LeanGPT, slots: int, name: str) -> None:
        self.model, self.slots, self.name = model, slots, name
        self.config: ModelConfig = model.config
        self.device: torch.device = model.device
        context, K, D = self.config.context, self.config.kv_heads, self.config.head_width
        # zeros, as a masked value still takes part in a product: 0 · NaN would be NaN
        shape = (self.config.n_layer, slots, 2 * K, context, D)
        self.cache = torch.zeros(shape, dtype=model.stream, device=self.device)
        self.flat = [layer.view(-1, D) for layer in self.cache]
        self.rows = torch.arange(slots * 2 * K, device=self.device).view(slots, 2 * K) * context
        self.tokens = torch.zeros(slots, context, dtype=torch.long, device=self.device)  # for bigrams
        self.groups = self.config.n_head // K

    @torch.inference_mode()
    def prefill(self, slot: int, start: int, ids: Tensor) -> Tensor:
        K, D, stop = self.config.kv_heads, self.config.head_width, start + len(ids)
        ids = ids.to(self.device)
        rows = (self.rows[slot] + torch.arange(start, stop, device=self.device)[:, None]).view(-1)
        first = max(0, start + 1 - self.config.attention_span)
        keys, values = self.cache[:, slot : slot + 1, :, first:stop].split(K, dim=2)  # [n_layer, 1, K, S, D]

        def attend(layer: int, heads: Tensor) -> Tensor:
            q, new = heads.split((self.config.n_head, 2 * K), dim=1)
            self.flat[layer].index_copy_(0, rows, new.reshape(-1, D))
            q = q.transpose(0, 1).unsqueeze(0)  # [1, H, N, D]
            y = sdpa_attention(q, keys[layer], values[layer], None, self.config.window, 0.0)
            return y.squeeze(0).transpose(0, 1).reshape(len(ids), -1)

        return self.model.read(ids, start, self.tokens[slot], attend)

    @torch.inference_mode()
    def head(self, hidden: Tensor) -> Tensor:
        return self.model.head(hidden)

    @torch.inference_mode()
    def decode(self, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
        positions = torch.tensor(lengths, device=self.device)
        x = self.model.embed(tokens, self._previous(tokens, positions), positions)
        attend = self._attend_rows(positions, min(lengths), max(lengths))
        return self.model.head(self.model.hidden(x, self.model.angles(positions), attend))

    def _previous(self, tokens: Tensor, positions: Tensor) -> Tensor | None:
        """The token before each of the new ones [R]; token 0 before the first. Keeps the new ones."""
        if self.model.bigram is None:
            return None
        held = self.tokens[: len(tokens)]
        held.scatter_(1, positions[:, None], tokens[:, None])
        before = held.gather(1, (positions - 1).clamp(min=0)[:, None]).squeeze(1)
        return before.where(positions > 0, 0)

    def _attend_rows(self, positions: Tensor, shortest: int, longest: int) -> Attend:
        """One new token in each row. The queries that share a key head attend as if they were several tokens."""
        R, K, D, H = len(positions), self.config.kv_heads, self.config.head_width, self.config.n_head
        rows = (self.rows[:R] + positions[:, None]).view(-1)
        first = max(0, shortest + 1 - self.config.attention_span)
        visible = self.cache[:, :R, :, first : longest + 1]
        keys, values = visible[:, :, :K].unbind(0), visible[:, :, K:].unbind(0)  # each [R, K, S, D]
        mask = None if shortest == longest else self.model.mask(positions, first, longest + 1)

        def attend(layer: int, heads: Tensor) -> Tensor:
            self.flat[layer].index_copy_(0, rows, heads.narrow(1, H, 2 * K).reshape(-1, D))
            q = heads.narrow(1, 0, H).view(R, K, self.groups, D)
            return F.scaled_dot_product_attention(q, keys[layer], values[layer], mask).reshape(R, H * D)

        return attend

    @torch.inference_mode()
    def recompute(self, ids: Tensor) -> Tensor:
        return self.model.next_token_logits(ids)

    @torch.inference_mode()
    def copy_prefix(self, source: int, target: int, length: int) -> None:
        self.cache[:, target, :, :length] = self.cache[:, source, :, :length]
        self.tokens[target, :length] = self.tokens[source, :length]
