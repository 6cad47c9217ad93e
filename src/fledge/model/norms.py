"""Norms: each token's vector is brought to a standard size, then scaled by learned weights.

layernorm   minus the mean, divided by the spread
rmsnorm     divided by the root of the mean square: cheaper, and as good
"""

from torch import nn
from torch.nn import LayerNorm, RMSNorm

from fledge.model.config import ModelConfig

__all__ = ["LayerNorm", "RMSNorm", "make_norm"]


def make_norm(config: ModelConfig) -> nn.Module:
    if config.norm == "layernorm":
        return LayerNorm(config.n_embd, bias=config.norm_bias)
    return RMSNorm(config.n_embd, eps=1e-6)
