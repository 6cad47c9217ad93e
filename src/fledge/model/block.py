"""A transformer block: attention, then an MLP, each with a norm before it (pre-norm) and a residual connection."""

from torch import Tensor, nn

from fledge.model.attention import Attention
from fledge.model.config import ModelConfig
from fledge.model.kv_cache import LayerCache
from fledge.model.mlp import MLPS
from fledge.model.norms import make_norm


class Block(nn.Module):
    def __init__(self, config: ModelConfig, rotation: nn.Module) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        self.attention = Attention(config, rotation)
        self.mlp_norm = make_norm(config)
        self.mlp = MLPS[config.mlp](config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, positions: slice | Tensor, cache: LayerCache) -> Tensor:
        """x [B, T, C] → [B, T, C]"""
        x = x + self.dropout(self.attention(self.attention_norm(x), positions, cache))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))
