"""Norms: each token's vector is brought to a standard size, then scaled by learned weights.

layernorm   minus the mean, divided by the spread; then, with a bias, shifted
rmsnorm     divided by the root of the mean square: cheaper, and as good
"""

import torch.nn.functional as F
from torch import Tensor, nn

from fledge.model.config import ModelConfig


class RMSNorm(nn.RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        """Weights in the precision of x: torch has one fast kernel for both, and none for a mixture."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def make_norm(config: ModelConfig) -> nn.Module:
    if config.norm == "layernorm":
        return nn.LayerNorm(config.n_embd, config.eps, bias=config.norm_bias)
    return RMSNorm(config.n_embd, config.eps)
