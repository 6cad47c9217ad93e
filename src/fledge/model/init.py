"""All initialization in one table. L is n_layer.

embed, query, key, value, inputs of the MLP    normal, 0.02
learned positions                              normal, 0.02
untied head                                    normal, 0.02
output, down                                   normal, 0.02 / √(2L): the residual stream is the sum of 2L of them
bigram                                         0: at first it adds nothing
norms and biases                               weights 1, biases 0
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fledge.model.bigram import Bigram
from fledge.model.block import Block
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.positions import LearnedPositions

STD = 0.02


def build(config: ModelConfig, seed: int) -> GPT:
    """A new model, the same for the same seed on every machine: weights are drawn on the CPU."""
    model = GPT(config)
    initialize(model, torch.Generator().manual_seed(seed))
    return model


def build_for_loading(config: ModelConfig) -> GPT:
    """A model whose weights must be loaded next: torch's own initialization, a second at 124M, is left out."""
    with _NoRandomNumbers():
        return GPT(config)


class _NoRandomNumbers(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return kwargs["tensor"] if getattr(func, "__module__", "") == nn.init.__name__ else func(*args, **kwargs)


@torch.no_grad()
def initialize(model: GPT, generator: torch.Generator) -> None:
    def normal(weight: Tensor, std: float = STD) -> None:
        weight.normal_(0.0, std, generator=generator)

    normal(model.embed.weight)
    if isinstance(model.bigram, Bigram):
        model.bigram.weight.zero_()
    if isinstance(model.positions, LearnedPositions):
        normal(model.positions.weight)
    for block in model.blocks:
        assert isinstance(block, Block)
        attention, mlp = block.attention, block.mlp
        for linear in (attention.query, attention.key, attention.value, *mlp.inputs()):
            normal(linear.weight)
        for linear in (attention.output, mlp.down):
            normal(linear.weight, STD / (2 * model.config.n_layer) ** 0.5)
    if not model.config.tied:
        normal(model.head.weight)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.RMSNorm) and module.weight is not None:
            module.weight.fill_(1.0)
        if isinstance(bias := getattr(module, "bias", None), nn.Parameter):
            bias.zero_()
