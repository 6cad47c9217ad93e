"""The key/value cache: keys and values of earlier tokens, so that a new token costs one token and not the whole text.

    cache = KVCache.allocate(config, rows=8, dtype=torch.float32, device="cpu")
    model(prompts, cache)                   # [8, T]: prefill; long prompts may come in several calls
    cache.truncate(3, 10)                   # row 3 holds its first 10 tokens again
    cache.free(5)                           # row 5 is empty, for another text
    model(next_tokens, cache)               # [8, 1]: decodes all rows in one call, whatever their lengths
    model(other_prompt, cache.rows(5, 6))   # [1, T]: prefills row 5 while the others wait

Every row has a length of its own; positions and the causal mask follow from it. Prompts of different lengths can share
a call: pad them on the right, then truncate each row to its own length.

Training and evaluation use `NoCache`, which keeps nothing: the code of the model is the same.
A window limits which keys are read, not which are kept: a truncated row needs the older ones again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fledge.model.config import ModelConfig


class LayerCache(Protocol):
    """The interface of the cache of one block."""

    @property
    def mask(self) -> Tensor | None:
        """Which keys each query sees [B, 1, T, S]; None: causal, where all rows have the same length."""

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """New keys and values [B, K, T, D] → all that the new tokens attend to [B, K, S, D]."""


class Cache(Protocol):
    """The interface of the cache of a model."""

    @property
    def layers(self) -> Sequence[LayerCache]:
        """One for each block."""

    def advance(self, ids: Tensor) -> slice | Tensor:
        """New tokens [B, T] → their positions, as an index into a table of all positions."""

    def previous(self, ids: Tensor) -> Tensor:
        """The token before each new token [B, T]; token 0 before the first."""


class NoLayerCache:
    """Keeps nothing: the new keys and values are all there are."""

    mask = None

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return k, v


class NoCache:
    """Keeps nothing: every row is a whole sequence that starts at position 0."""

    def __init__(self, config: ModelConfig) -> None:
        self.layers = [NoLayerCache() for _ in range(config.n_layer)]

    def advance(self, ids: Tensor) -> slice | Tensor:
        return slice(ids.shape[1])

    def previous(self, ids: Tensor) -> Tensor:
        return F.pad(ids[:, :-1], (1, 0))


class KVLayerCache:
    """Keys and values of one block."""

    def __init__(self, cache: "KVCache", store: Tensor) -> None:
        self.cache = cache
        self.keys, self.values = store  # each [B, K, context, D]

    @property
    def mask(self) -> Tensor | None:
        return self.cache.mask

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        positions, visible = self.cache.positions, self.cache.visible
        for store, new in ((self.keys, k), (self.values, v)):
            if isinstance(positions, slice):
                store[:, :, positions] = new
            else:
                store.scatter_(2, positions[:, None, :, None].expand_as(new), new.to(store.dtype))
        return self.keys[:, :, visible], self.values[:, :, visible]


@dataclass
class KVCache:
    """The cache of all blocks. `lengths` is on the CPU, so that planning with it never waits for a GPU."""

    config: ModelConfig
    lengths: Tensor  # [B], int64: how many tokens each row holds
    tokens: Tensor  # [B, context]: their ids
    store: Tensor  # [n_layer, 2, B, K, context, D]
    positions: slice | Tensor = field(init=False)  # of the new tokens: [B, T]; a slice where all rows have one length
    visible: slice = field(init=False)  # the S positions that the new tokens attend to
    mask: Tensor | None = field(init=False)  # [B, 1, T, S]

    def __post_init__(self) -> None:
        self.layers = [KVLayerCache(self, store) for store in self.store]

    @classmethod
    def allocate(cls, config: ModelConfig, rows: int, dtype: torch.dtype, device: torch.device | str) -> "KVCache":
        """An empty cache. Zeros, as a masked value still takes part in a product: 0 · NaN would be NaN."""
        shape = (config.n_layer, 2, rows, config.kv_heads, config.context, config.head_width)
        return cls(
            config,
            torch.zeros(rows, dtype=torch.long),
            torch.zeros(rows, config.context, dtype=torch.long, device=device),
            torch.zeros(shape, dtype=dtype, device=device),
        )

    def rows(self, start: int, stop: int) -> "KVCache":
        """A view of some rows: what is appended to it is appended to them."""
        rows = slice(start, stop)
        return KVCache(self.config, self.lengths[rows], self.tokens[rows], self.store[:, :, rows])

    def truncate(self, row: int, length: int) -> None:
        """Keep the first `length` tokens of a row."""
        assert 0 <= length <= self.lengths[row], "a row can only become shorter"
        self.lengths[row] = length

    def free(self, row: int) -> None:
        """Empty a row, so that another text can use it."""
        self.truncate(row, 0)

    def advance(self, ids: Tensor) -> slice | Tensor:
        """Make room for T more tokens in every row. Where a call fails after this, truncate the rows again."""
        B, T = ids.shape
        assert len(self.lengths) == B, "one row of tokens for each row of the cache"
        shortest, longest = int(self.lengths.min()), int(self.lengths.max())
        assert longest + T <= self.config.context, "more tokens than the context holds"
        positions = (self.lengths[:, None] + torch.arange(T)).to(ids.device)
        self.visible = slice(max(0, shortest + 1 - self.config.attention_span), longest + T)
        if shortest == longest:
            self.positions, self.mask = slice(longest, longest + T), None
        else:
            self.positions, self.mask = positions, self._mask(positions)
        self.tokens.scatter_(1, positions, ids)
        self.lengths += T
        return self.positions

    def _mask(self, positions: Tensor) -> Tensor:
        key = torch.arange(self.visible.start, self.visible.stop, device=positions.device)  # [S]
        query = positions[:, None, :, None]  # [B, 1, T, 1]
        return (key <= query) & (key > query - self.config.attention_span)

    def previous(self, ids: Tensor) -> Tensor:
        start = (self.lengths - ids.shape[1])[:, None].to(ids.device)  # [B, 1]
        before = self.tokens.gather(1, (start - 1).clamp(min=0)).where(start > 0, 0)
        return torch.cat((before, ids[:, :-1]), dim=1)
