"""A transformer block: attention, then an MLP. Each adds its output to the residual stream x.

pre_norm      x + attention(norm(x))        x + mlp(norm(x))          GPT-2, and nearly all later models
post_norm     norm(x + attention(x))        norm(x + mlp(x))          the first transformer
norm_in_out   norm(x), x + attention(x)     x + mlp(x), norm(x)       the block's input and output are normalized
"""

from torch import Tensor, nn

from fledge.model.attention import Attention
from fledge.model.config import ModelConfig
from fledge.model.dropout import make_dropout
from fledge.model.kv_cache import LayerCache
from fledge.model.mlp import MLPS
from fledge.model.norms import make_norm


class Block(nn.Module):
    """The parts of every block. The subclasses put them in order; weights have the same names in all of them."""

    def __init__(self, config: ModelConfig, rotation: nn.Module) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        self.attention = Attention(config, rotation)
        self.mlp_norm = make_norm(config)
        self.mlp = MLPS[config.mlp](config)
        self.dropout = make_dropout(config, "residual")
        self.stream_dropout = make_dropout(config, "stream")

    def forward(self, x: Tensor, positions: slice | Tensor, cache: LayerCache) -> Tensor:
        """x [B, T, C] → [B, T, C]"""
        raise NotImplementedError

    def attention_input(self, x: Tensor) -> Tensor:
        """The input of the block → that of its attention [B, T, C]"""
        raise NotImplementedError


class PreNormBlock(Block):
    def forward(self, x: Tensor, positions: slice | Tensor, cache: LayerCache) -> Tensor:
        """x [B, T, C] → [B, T, C]"""
        x = self.stream_dropout(x) + self.dropout(self.attention(self.attention_norm(x), positions, cache))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))

    def attention_input(self, x: Tensor) -> Tensor:
        return self.attention_norm(x)


class PostNormBlock(Block):
    def forward(self, x: Tensor, positions: slice | Tensor, cache: LayerCache) -> Tensor:
        """x [B, T, C] → [B, T, C]"""
        x = self.attention_norm(self.stream_dropout(x) + self.dropout(self.attention(x, positions, cache)))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))

    def attention_input(self, x: Tensor) -> Tensor:
        return x


class NormInOutBlock(Block):
    def forward(self, x: Tensor, positions: slice | Tensor, cache: LayerCache) -> Tensor:
        """x [B, T, C] → [B, T, C]"""
        x = self.attention_norm(x)
        x = self.stream_dropout(x) + self.dropout(self.attention(x, positions, cache))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))

    def attention_input(self, x: Tensor) -> Tensor:
        return self.attention_norm(x)


BLOCKS: dict[str, type[Block]] = {
    "pre_norm": PreNormBlock,
    "post_norm": PostNormBlock,
    "norm_in_out": NormInOutBlock,
}
