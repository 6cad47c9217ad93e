"""Attention: each token mixes the values of the tokens before it, weighted by how well its query fits their keys.

readable   every step explicit: the reference implementation
sdpa       scores, softmax and mixing in one fused kernel: torch's scaled_dot_product_attention
blocked    the readable steps for a block of queries at a time, without the keys that these cannot see

    B  sequences in the batch    H  query heads        D  width of a head
    T  new tokens                K  key/value heads    C  width of the model
    S  tokens attended to: those in a cache, and the T new ones

All implementations take the same arguments and give the same result. Which one is fastest depends on the machine: on a
GPU sdpa, on a CPU with bf16 units often blocked. `auto` lets training measure it, and is sdpa elsewhere.
Head h of H uses the keys and values of group h // (H // K). With K = H that is plain multi-head attention. With a
window, a token sees itself and the window - 1 tokens before it.
Positions are in positions.py, and keys and values of earlier tokens in kv_cache.py. A bias on the attention scores,
such as ALiBi, would be added to the scores in `attention_weights`; the fused kernel takes a bias as a float mask, in
place of the boolean `mask`.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fledge.model.config import ModelConfig
from fledge.model.dropout import make_dropout
from fledge.model.kv_cache import LayerCache
from fledge.model.lora import make_linear
from fledge.model.norms import RMSNorm

# q [B, H, T, D], k and v [B, K, S, D], mask, window, dropout → [B, H, T, D]. The mask is True where a query sees a key
# [B, 1, T, S]; without one, attention is causal: the queries are the last T of the S tokens, and see `window` of them.
# Where T = S, a mask is of packed texts: within the causal one.
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None, int | None, float], Tensor]

BLOCK = 128  # queries of a block, at least: smaller matrix products are slower
BLOCKS = 4  # at most: torch.compile compiles each of them by itself, in every layer


def causal_mask(T: int, S: int, window: int | None, device: torch.device) -> Tensor:
    """True where a new token sees a token: itself and earlier ones, within the window. [T, S]"""
    seen = torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)
    if window is not None:
        seen = seen.triu(S - T - window + 1)
    return seen


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None, window: int | None) -> Tensor:
    """How much each new token attends to each token: rows that sum to one. [B, H, T, S]"""
    H, T, D = q.shape[1:]
    k = repeat_heads(k, H)
    seen = causal_mask(T, k.shape[2], window, q.device) if mask is None else mask
    scores = q @ k.transpose(-2, -1) / D**0.5  # [B, H, T, S]
    return scores.masked_fill(~seen, float("-inf")).softmax(dim=-1)


def readable_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, window: int | None, dropout: float = 0.0
) -> Tensor:
    """The reference implementation."""
    weights = F.dropout(attention_weights(q, k, mask, window), dropout)  # [B, H, T, S]
    return weights @ repeat_heads(v, q.shape[1])


def repeat_heads(x: Tensor, H: int) -> Tensor:
    """[B, K, S, D] → [B, H, S, D]"""
    K = x.shape[1]
    return x if K == H else x.repeat_interleave(H // K, dim=1)


def blocked_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, window: int | None, dropout: float = 0.0
) -> Tensor:
    """Plain matrix products: with four blocks, 5/8 of the whole square, where half of it is needed."""
    H, T, S = q.shape[1], q.shape[2], k.shape[2]
    if mask is not None and T != S:  # rows of different lengths have no blocks in common
        return readable_attention(q, k, v, mask, window, dropout)
    k, v = repeat_heads(k, H), repeat_heads(v, H)
    outputs = []
    for start, stop, first, last in visible_blocks(T, S, window):
        block, seen = q[:, :, start:stop], None if mask is None else mask[:, :, start:stop, first:last]
        outputs.append(readable_attention(block, k[:, :, first:last], v[:, :, first:last], seen, window, dropout))
    return torch.cat(outputs, dim=2)


def visible_blocks(T: int, S: int, window: int | None) -> Iterator[tuple[int, int, int, int]]:
    """Blocks of queries, start to stop, and the keys that they see, first to last."""
    size = max(BLOCK, -(-T // BLOCKS))
    for start in range(0, T, size):
        stop = min(start + size, T)
        first = 0 if window is None else max(0, S - T + start - window + 1)
        yield start, stop, first, S - T + stop


def sdpa_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, window: int | None, dropout: float = 0.0
) -> Tensor:
    """One kernel, which never writes the matrix of weights to memory."""
    T, S = q.shape[2], k.shape[2]
    narrow = window is not None and window < S
    is_causal = mask is None and T == S and not narrow  # the kernel knows this pattern, and computes half of it only
    sees_all = mask is None and T == 1 and not narrow
    seen = mask if mask is not None or is_causal or sees_all else causal_mask(T, S, window, q.device)
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=seen, dropout_p=dropout, is_causal=is_causal, enable_gqa=grouped
    )


ATTENTIONS: dict[str, Attend] = {
    "auto": sdpa_attention,
    "sdpa": sdpa_attention,
    "blocked": blocked_attention,
    "readable": readable_attention,
}


class Attention(nn.Module):
    """Project to queries, keys and values; attend in each head; project the concatenated heads back."""

    def __init__(self, config: ModelConfig, rotation: nn.Module) -> None:
        super().__init__()
        C, H, K, D = config.n_embd, config.n_head, config.kv_heads, config.head_width
        self.query = make_linear(config, C, H * D, bias=config.qkv_bias)
        self.key = make_linear(config, C, K * D, bias=config.qkv_bias)
        self.value = make_linear(config, C, K * D, bias=config.qkv_bias)
        self.output = make_linear(config, H * D, C, bias=config.output_bias)
        self.query_norm = RMSNorm(D, config.eps) if config.qk_norm else nn.Identity()
        self.key_norm = RMSNorm(D, config.eps) if config.qk_norm else nn.Identity()
        self.rotate = rotation
        self.attend = ATTENTIONS[config.attention]
        self.head_width = D
        self.window = config.window
        self.dropout = config.dropout_at("attention")
        self.qkv_dropout = make_dropout(config, "qkv")

    def forward(self, x: Tensor, positions: slice | Tensor, cache: LayerCache) -> Tensor:
        q, k, v = self.project(x, positions)
        k, v = cache.append(k, v)  # [B, K, S, D]
        dropout = self.dropout if self.training else 0.0
        y = self.attend(q, k, v, cache.mask, self.window, dropout)  # [B, H, T, D]
        return self.output(y.transpose(1, 2).flatten(2))  # [B, T, C]

    def project(self, x: Tensor, positions: slice | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, C] → queries [B, H, T, D], keys and values [B, K, T, D] of the new tokens"""
        q = self.heads(self.qkv_dropout(self.query(x)))
        k = self.heads(self.qkv_dropout(self.key(x)))
        v = self.heads(self.qkv_dropout(self.value(x)))
        q = self.rotate(self.query_norm(q), positions)
        k = self.rotate(self.key_norm(k), positions)
        return q, k, v

    def heads(self, x: Tensor) -> Tensor:
        """[B, T, heads · D] → [B, heads, T, D]"""
        return x.unflatten(-1, (-1, self.head_width)).transpose(1, 2)
