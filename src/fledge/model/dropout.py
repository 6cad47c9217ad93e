"""Dropout: in training, a fraction of the numbers becomes 0, and the others grow by as much. In one place or several.

embedding   the input of the first block
qkv         queries, keys and values, before positions and norms
attention   the attention weights (attention.py)
mlp         the hidden activations of the MLP
residual    what attention and MLP give, before it is added to the residual stream
stream      the residual stream, where the output of attention is added to it

All places share one rate. Where nothing is dropped, no random number is drawn.
"""

from torch import nn

from fledge.model.config import DropoutPlace, ModelConfig


def make_dropout(config: ModelConfig, place: DropoutPlace) -> nn.Module:
    rate = config.dropout_at(place)
    return nn.Dropout(rate) if rate else nn.Identity()
