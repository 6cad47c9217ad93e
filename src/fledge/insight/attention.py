"""What each head attends to in a text, by the reference implementation of attention.

    weights = attention_weights(model, ids)         # [L, H, T, T]: rows sum to one
    heads = attention_heads(model, ids)             # queries and keys only; weights are computed when wanted
    heads.head(3, 5)                                # layer 3, head 5 [T, T]
    head_scores(model).induction                    # [L, H]

All weights of 12 layers and 12 heads on 1,024 tokens are 0.6 GB. Queries and keys are 75 MB, so these are kept
of many checkpoints, and the weights of a layer are computed when they are wanted.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fledge.core.errors import UserError
from fledge.insight.residual_stream import residual_stream
from fledge.model import attention as reference
from fledge.model.block import Block
from fledge.model.gpt import GPT

REPEATED_ROWS, REPEATED_TOKENS = 4, 32  # random tokens on which heads are scored: enough for two digits


@dataclass(frozen=True)
class AttentionHeads:
    """The queries and keys of every head on one text, in float32 on the CPU: after positions and norms."""

    queries: Tensor  # [L, H, T, D]
    keys: Tensor  # [L, K, T, D]
    window: int | None

    def weights(self, layer: int) -> Tensor:
        """[H, T, T]: a row is how much one token attends to each token."""
        q, k = self.queries[layer, None], self.keys[layer, None]
        return reference.attention_weights(q, k, None, self.window)[0]

    def head(self, layer: int, head: int) -> Tensor:
        """[T, T], without computing the other heads of the layer."""
        group = self.queries.shape[1] // self.keys.shape[1]
        q, k = self.queries[layer, head], self.keys[layer, head // group]
        return reference.attention_weights(q[None, None], k[None, None], None, self.window)[0, 0]


def attention_heads(model: GPT, ids: Tensor, *, stream: Tensor | None = None) -> AttentionHeads:
    """ids [T]; stream: `whole_stream`, where it is known."""
    parts = None if stream is None else stream[:, None]
    queries, keys = zip(
        *((q.float().cpu(), k.float().cpu()) for q, k in _projected(model, ids[None], parts)), strict=True
    )
    return AttentionHeads(torch.cat(queries), torch.cat(keys), model.config.window)


def attention_weights(model: GPT, ids: Tensor) -> Tensor:
    """ids [T] → [layers, heads, T, T]"""
    config, T = model.config, len(ids)
    weights = torch.empty(config.n_layer, config.n_head, T, T)  # filled layer by layer: never held twice
    for layer, (q, k) in enumerate(_projected(model, ids[None])):
        weights[layer] = reference.attention_weights(q, k, None, config.window)[0]
    return weights


@torch.no_grad()
def _projected(model: GPT, ids: Tensor, stream: Iterable[Tensor] | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """ids [B, T] → queries [B, H, T, D] and keys [B, K, T, D] of each layer"""
    positions, parts = model.no_cache.advance(ids), stream if stream is not None else residual_stream(model, ids)
    for block, x in zip(model.blocks, parts, strict=False):  # what the last block gives is read by no attention
        assert isinstance(block, Block)
        q, k, _ = block.attention.project(block.attention_input(x), positions)
        yield q, k


def thumbnails(weights: Tensor, size: int) -> Tensor:
    """weights [H, T, T] → small pictures [H, S, S] of at most `size` pixels: the largest weight under each pixel."""
    side = min(size, weights.shape[-1])
    return F.adaptive_max_pool2d(weights, (side, side))


@dataclass(frozen=True)
class HeadScores:
    """Of each head [L, H], on random tokens that are repeated once: a b c d a b c d."""

    induction: Tensor  # attention in the second half to the token that followed the same token before: 0 to 1
    previous_token: Tensor  # attention to the token before: 0 to 1
    entropy: Tensor  # of the attention of a token, in nats: 0 where it attends to one token only


def head_scores(model: GPT, *, seed: int = 0) -> HeadScores:
    """Which heads repeat what followed a token before (induction), and which look one token back."""
    T = min(REPEATED_TOKENS, model.config.context // 2)
    if T < 2:
        raise UserError("heads need a context of 4 tokens to be scored", "choose a model with a longer context")
    generator = torch.Generator().manual_seed(seed)
    half = torch.randint(model.embed.num_embeddings, (REPEATED_ROWS, T), generator=generator)
    scores = torch.empty(3, model.config.n_layer, model.config.n_head)
    for layer, (q, k) in enumerate(_projected(model, torch.cat((half, half), 1))):
        weights = reference.attention_weights(q, k, None, model.config.window).float()  # [B, H, 2T, 2T]
        followed = weights.diagonal(1 - T, -2, -1)[..., 1:]  # of the queries T … 2T - 1
        previous = weights.diagonal(-1, -2, -1)
        entropy = torch.special.entr(weights).sum(-1)
        scores[:, layer] = torch.stack([each.mean((0, 2)) for each in (followed, previous, entropy)])
    return HeadScores(*scores)
