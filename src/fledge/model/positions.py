"""Positional encodings.

learned      a learned vector for each position is added to the token's embedding
sinusoidal   a fixed vector for each position is added: sines and cosines, from fast to slow
rotary       queries and keys are rotated by an angle that grows with their position

Each kind acts in one of two places: on the embedding (POSITIONS), or on queries and keys (ROTATIONS).
ALiBi would act in a third: a bias added to the attention scores, in place of the boolean `mask` of attention.py.
`positions` is an index into a table of all positions: a slice for whole sequences, [B, T] with a cache.
"""

import torch
from torch import Tensor, nn

from fledge.model.config import ModelConfig

SINUSOIDAL_BASE = 10_000.0


def sinusoids(count: int, width: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of position / base^(2i/width), for each i below width/2. Each [count, width/2]"""
    # On the CPU and in double precision, so that they are the same numbers wherever the model is built.
    position = torch.arange(count, dtype=torch.float64, device="cpu")
    frequency = base ** -(torch.arange(0, width, 2, dtype=torch.float64, device="cpu") / width)
    angle, device = torch.outer(position, frequency), torch.get_default_device()
    return angle.cos().float().to(device), angle.sin().float().to(device)


class LearnedPositions(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.context, config.n_embd))

    def forward(self, x: Tensor, positions: slice | Tensor) -> Tensor:
        """x [B, T, C]"""
        return x + self.weight[positions]


class SinusoidalPositions(nn.Module):
    """Dimensions 2i and 2i + 1 are the sine and the cosine of position / 10000^(2i/C)."""

    table: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        with torch.device("cpu"):  # torch.stack of meta tensors would import torch's compiler, which takes seconds
            cos, sin = sinusoids(config.context, config.n_embd, SINUSOIDAL_BASE)  # [context, C/2]
            table = torch.stack((sin, cos), dim=-1).flatten(1)  # [context, C]
        self.register_buffer("table", table.to(torch.get_default_device()), persistent=False)

    def forward(self, x: Tensor, positions: slice | Tensor) -> Tensor:
        """x [B, T, C]"""
        return x + self.table[positions]


class NoPositions(nn.Module):
    def __init__(self, _: ModelConfig) -> None:
        super().__init__()

    def forward(self, x: Tensor, _positions: slice | Tensor) -> Tensor:
        return x


class NoRotation(nn.Module):
    def __init__(self, _: ModelConfig) -> None:
        super().__init__()

    def forward(self, x: Tensor, _positions: slice | Tensor) -> Tensor:
        return x


class Rotary(nn.Module):
    """Rotate dimensions i and i + D/2, as a point in a plane, by the angle position / base^(2i/D).

    The score of a query and a key then depends on their distance only.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        cos, sin = sinusoids(config.context, config.head_width, config.rotary_base)  # [context, D/2]
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, x: Tensor, positions: slice | Tensor) -> Tensor:
        """x [B, heads, T, D]"""
        cos, sin = (
            table[positions].unsqueeze(-3).to(x.dtype) for table in (self.cos, self.sin)
        )  # the same in all heads
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


# added to the embedding
POSITIONS: dict[str, type[nn.Module]] = {
    "learned": LearnedPositions,
    "sinusoidal": SinusoidalPositions,
    "rotary": NoPositions,
}
# applied to queries and keys
ROTATIONS: dict[str, type[nn.Module]] = {"learned": NoRotation, "sinusoidal": NoRotation, "rotary": Rotary}
