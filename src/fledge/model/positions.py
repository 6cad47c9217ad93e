"""How a model knows which token comes before which.

learned      a vector for each place, learned as the tokens' own are, is added to them
sinusoidal   a fixed vector for each place is added to the tokens': waves, from fast to slow
rotary       queries and keys are turned by an angle that grows with their place

There are two places to say it, and each kind uses one: POSITIONS and ROTATIONS below.
`start` is the place of the first token given: 0, or the number of tokens already in the cache.
"""

import torch
from torch import Tensor, nn

from fledge.model.config import ModelConfig

SINUSOIDAL_BASE = 10_000.0


def sinusoids(places: int, width: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of place / base^(2i/width), for each i below width/2: from fast to slow. [places, width/2]"""
    # On the CPU and in double precision, so that they are the same numbers wherever the model is built.
    place = torch.arange(places, dtype=torch.float64, device="cpu")
    speed = base ** -(torch.arange(0, width, 2, dtype=torch.float64, device="cpu") / width)
    angle, here = torch.outer(place, speed), torch.get_default_device()
    return angle.cos().float().to(here), angle.sin().float().to(here)


class LearnedPositions(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.context, config.n_embd))

    def forward(self, x: Tensor, start: int) -> Tensor:
        """x [B, T, C]"""
        return x + self.weight[start : start + x.shape[1]]


class SinusoidalPositions(nn.Module):
    """Dimensions 2i and 2i + 1 are the sine and the cosine of place / 10000^(2i/C)."""

    table: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        cos, sin = sinusoids(config.context, config.n_embd, SINUSOIDAL_BASE)  # [context, C/2]
        self.register_buffer("table", torch.stack((sin, cos), dim=-1).flatten(1), persistent=False)  # [context, C]

    def forward(self, x: Tensor, start: int) -> Tensor:
        """x [B, T, C]"""
        return x + self.table[start : start + x.shape[1]]


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
        cos, sin = sinusoids(config.context, config.head_width, config.rotary_base)  # [context, D/2]
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, x: Tensor, start: int) -> Tensor:
        """x [B, heads, T, D]"""
        cos, sin = (table[start : start + x.shape[2]].to(x.dtype) for table in (self.cos, self.sin))
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


# what is added to the embedding
POSITIONS: dict[str, type[nn.Module]] = {
    "learned": LearnedPositions,
    "sinusoidal": SinusoidalPositions,
    "rotary": NoPositions,
}
# what turns queries and keys
ROTATIONS: dict[str, type[nn.Module]] = {"learned": NoRotation, "sinusoidal": NoRotation, "rotary": Rotary}
