"""How a model knows which token comes before which. There are two places to say it, and each kind uses one:

    learned    a vector for each place is added to the token's own              LearnedPositions · NoRotation
    rotary     queries and keys are turned by an angle that grows with place    NoPositions · Rotary

`start` is the place of the first token given: 0, or the number of tokens already in the cache.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fledge.model.config import ModelConfig

BASE = 10_000.0


class LearnedPositions(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.context, config.n_embd))

    def forward(self, x: Tensor, start: int) -> Tensor:
        """x [B, T, C]"""
        return x + self.weight[start : start + x.shape[1]]


class NoPositions(nn.Module):
    def __init__(self, _: ModelConfig) -> None:
        super().__init__()

    def forward(self, x: Tensor, _start: int) -> Tensor:
        return x


class NoRotation(nn.Module):
    def __init__(self, _: ModelConfig) -> None:
        super().__init__()

    def forward(self, x: Tensor, _start: int) -> Tensor:
        return x


class Rotary(nn.Module):
    """Dimension i of the first half and i of the second are one point in a plane, turned by place / base^(2i/D).

    The score of a query and a key then depends on their distance alone.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D = config.head_width
        speed = BASE ** -(torch.arange(0, D, 2, dtype=torch.float64) / D)  # [D/2], from fast to slow
        angle = torch.outer(torch.arange(config.context, dtype=torch.float64), speed)  # [context, D/2]
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    def forward(self, x: Tensor, start: int) -> Tensor:
        """x [B, heads, T, D]"""
        cos, sin = (table[start : start + x.shape[2]].to(x.dtype) for table in (self.cos, self.sin))
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


# Both take queries or keys [B, heads, T, D], the first of them at place `start`, and give them back turned.
Rotation = NoRotation | Rotary

# name → what is added to the embedding, and what turns queries and keys
KINDS: dict[str, tuple[Callable[[ModelConfig], nn.Module], Callable[[ModelConfig], Rotation]]] = {
    "learned": (LearnedPositions, NoRotation),
    "rotary": (NoPositions, Rotary),
}


def make_positions(config: ModelConfig) -> tuple[nn.Module, Rotation]:
    embedding, rotation = KINDS[config.positions]
    return embedding(config), rotation(config)
