"""The GPT: token ids in, logits of the next token out.

    ids [B, T]  →  embed  →  (+ bigram)  →  (+ positions)  →  blocks  →  norm  →  head  →  logits [B, T, V]

With a cache, ids are the tokens that follow those in the cache.
Plain single-device code without tokenizer, loss or sampling: see training/, losses/ and inference/.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fledge.model.bigram import make_bigram
from fledge.model.block import BLOCKS
from fledge.model.config import ModelConfig
from fledge.model.dropout import make_dropout
from fledge.model.head import Head, ValueHead, make_head
from fledge.model.kv_cache import Cache, NoCache
from fledge.model.norms import make_norm
from fledge.model.positions import POSITIONS, ROTATIONS

# hidden [B, T, C], head, targets [B, T] → summed loss, or log-probabilities [B, T]
HeadLoss = Callable[[Tensor, Head, Tensor], Tensor]


class GPT(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.vocab_size is not None, "the vocabulary must be known before a model is built"
        self.config = config
        table = torch.empty(config.vocab_size, config.n_embd)  # filled by initialize(), and only there
        self.embed = nn.Embedding.from_pretrained(table, freeze=False)
        self.bigram = make_bigram(config)
        self.positions = POSITIONS[config.positions](config)
        rotation = ROTATIONS[config.positions](config)  # one table of angles for all blocks
        self.blocks = nn.ModuleList(BLOCKS[config.block](config, rotation) for _ in range(config.n_layer))
        self.norm = make_norm(config) if config.final_norm else nn.Identity()
        self.head = make_head(config)
        self.value_head = ValueHead(config) if config.value_head else None
        self.dropout = make_dropout(config, "embedding")
        self.no_cache = NoCache(config)
        if config.tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """ids [B, T] → logits [B, T, V]"""
        return self.head(self.hidden(ids, cache))

    def forward_loss(self, ids: Tensor, targets: Tensor, head_loss: HeadLoss, cache: Cache | None = None) -> Tensor:
        """ids and targets [B, T] → what `head_loss` gives: it applies the head itself, and need not hold all logits."""
        return head_loss(self.hidden(ids, cache), self.head, targets)

    def weights(self) -> dict[str, Tensor]:
        """All that is kept of a model, each once: a tied head has no entry of its own. They share its memory."""
        kept = self.state_dict().keys()
        buffers = {name: buffer for name, buffer in self.named_buffers() if name in kept}
        return {name: weight.detach() for name, weight in self.named_parameters()} | buffers

    def values(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """ids [B, T] → what the value head gives for each token, in float32 [B, T]"""
        assert self.value_head is not None, "a model without model.value_head has no values"
        return self.value_head(self.hidden(ids, cache))

    def loss_and_values(self, ids: Tensor, targets: Tensor, head_loss: HeadLoss) -> tuple[Tensor, Tensor]:
        """`forward_loss` and `values` in one pass: hidden vectors are computed once."""
        assert self.value_head is not None, "a model without model.value_head has no values"
        hidden = self.hidden(ids)
        return head_loss(hidden, self.head, targets), self.value_head(hidden)

    def next_token_logits(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """ids [B, T] → logits of the token that follows the last, [B, V]: the head sees one position only."""
        return self.head(self.hidden(ids, cache)[:, -1])

    def hidden(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """ids [B, T] → hidden vectors, the input of the head [B, T, C]"""
        assert ids.shape[1] <= self.config.context, "more tokens than the context holds"
        past = cache or self.no_cache
        x, positions = self.embedded(ids, past)
        for block, layer_past in zip(self.blocks, past.layers, strict=True):
            x = block(x, positions, layer_past)
        return self.norm(x)

    def embedded(self, ids: Tensor, past: Cache) -> tuple[Tensor, slice | Tensor]:
        """ids [B, T] → the input of the first block [B, T, C], and the positions of the tokens"""
        positions = past.advance(ids)
        x = self.bigram(self.embed(ids), ids, past)
        return self.dropout(self.positions(x, positions)), positions
