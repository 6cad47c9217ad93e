"""Norms: normalize each token's vector, then scale it by learned weights.

layernorm   subtract the mean, divide by the standard deviation; a bias is optional
rmsnorm     divide by the root of the mean square: cheaper, and as good
"""

import torch.nn.functional as F
from torch import Tensor, nn

from fledge.model.config import ModelConfig


class RMSNorm(nn.RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        """Weights in the dtype of x: the fused kernel of torch needs both alike."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def make_norm(config: ModelConfig) -> nn.Module:
    if config.norm == "layernorm":
        return nn.LayerNorm(config.n_embd, config.eps, bias=config.norm_bias)
    return RMSNorm(config.n_embd, config.eps)
