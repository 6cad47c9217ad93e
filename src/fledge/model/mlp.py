"""The MLP of a block: it transforms each token by itself. [B, T, C] → [B, T, C]

gelu        down(gelu(up(x)))              the exact GELU
gelu_tanh   down(gelu(up(x)))              GPT-2's: the tanh approximation
relu        down(relu(up(x)))
relu2       down(relu(up(x))²)             sparse, and a little better than gelu
swiglu      down(silu(gate(x)) · up(x))    gated: one projection scales the other
"""

import torch.nn.functional as F
from torch import Tensor, nn

from fledge.model.config import ModelConfig
from fledge.model.dropout import make_dropout
from fledge.model.lora import make_linear


class MLP(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = make_linear(config, config.n_embd, config.mlp_hidden_width, bias=config.mlp_bias)
        self.down = make_linear(config, config.mlp_hidden_width, config.n_embd, bias=config.mlp_bias)
        self.dropout = make_dropout(config, "mlp")

    def inputs(self) -> list[nn.Linear]:
        """The projections from the width of the model to the hidden width."""
        return [self.up]


class GeluMLP(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(F.gelu(self.up(x))))


class GeluTanhMLP(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(F.gelu(self.up(x), approximate="tanh")))


class ReluMLP(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(F.relu(self.up(x))))


class Relu2MLP(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(F.relu(self.up(x)).square()))


class SwigluMLP(MLP):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.gate = make_linear(config, config.n_embd, config.mlp_hidden_width, bias=config.mlp_bias)

    def inputs(self) -> list[nn.Linear]:
        return [self.up, self.gate]

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(F.silu(self.gate(x)) * self.up(x)))


MLPS: dict[str, type[MLP]] = {
    "gelu": GeluMLP,
    "gelu_tanh": GeluTanhMLP,
    "relu": ReluMLP,
    "relu2": Relu2MLP,
    "swiglu": SwigluMLP,
}
