"""All initialization in one table. L is n_layer, C the width, and N(s) a normal distribution with deviation s.

                                 gpt2              normal     torch
embed, learned positions         N(0.02)           N(0.02)    N(1)
query, key, value, untied head   N(0.02)           N(0.02)    uniform between -1/√inputs and 1/√inputs
inputs of the MLP                N(0.02)           N(0.02)    the same
output, down                     N(0.02 / √(2L))   N(0.02)    the same
their biases                     0                 0          the same

bigram                           0: at first it adds nothing
LoRA                             A N(1 / √inputs), B 0: at first it adds nothing
value head                       N(value_std / √C)
norms                            weights 1, biases 0

gpt2: the residual stream is the sum of 2L outputs. torch: what nn.Linear and nn.Embedding give themselves; a tied head
has the embedding's.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fledge.core.distributed import full_tensor
from fledge.model.bigram import Bigram
from fledge.model.block import Block
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.lora import LoRALinear, merge, plain_config
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


@torch.no_grad()
def merged_copy(model: GPT) -> GPT:
    """A plain GPT with the weights that the model has now, in evaluation mode on the same device: adapters are merged,
    and there is no value head. For generating while the model is trained. With FSDP a collective."""
    weights = {name: full_tensor(weight) for name, weight in model.weights().items()}
    with torch.device(model.embed.weight.device):
        plain = build_for_loading(plain_config(model.config))
    kept = plain.weights()
    for name, weight in merge(weights, model.config).items():
        kept[name].copy_(weight)
    return plain.eval()


class _NoRandomNumbers(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return kwargs["tensor"] if getattr(func, "__module__", "") == nn.init.__name__ else func(*args, **kwargs)


class NormalInit:
    """N(0.02) for all matrices, biases 0."""

    def __init__(self, config: ModelConfig, generator: torch.Generator) -> None:
        self.config, self.generator = config, generator

    def normal(self, weight: Tensor, std: float) -> None:
        weight.normal_(0.0, std, generator=self.generator)

    def table(self, weight: Tensor) -> None:
        """The embedding, and learned positions."""
        self.normal(weight, STD)

    def linear(self, layer: nn.Linear) -> None:
        self.normal(layer.weight, STD)
        self.bias(layer)

    def bias(self, layer: nn.Linear) -> None:
        if layer.bias is not None:
            layer.bias.zero_()

    def branch_output(self, layer: nn.Linear) -> None:
        """The last layer of attention or MLP: its output is added to the residual stream."""
        self.linear(layer)


class GPT2Init(NormalInit):
    def branch_output(self, layer: nn.Linear) -> None:
        self.normal(layer.weight, STD / (2 * self.config.n_layer) ** 0.5)
        self.bias(layer)


class TorchInit(NormalInit):
    def table(self, weight: Tensor) -> None:
        self.normal(weight, 1.0)

    def linear(self, layer: nn.Linear) -> None:
        bound = layer.in_features**-0.5
        layer.weight.uniform_(-bound, bound, generator=self.generator)
        self.bias(layer)

    def bias(self, layer: nn.Linear) -> None:
        if layer.bias is not None:
            bound = layer.in_features**-0.5
            layer.bias.uniform_(-bound, bound, generator=self.generator)


INITS: dict[str, type[NormalInit]] = {"gpt2": GPT2Init, "normal": NormalInit, "torch": TorchInit}


@torch.no_grad()
def initialize(model: GPT, generator: torch.Generator) -> None:
    init = INITS[model.config.init](model.config, generator)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            module.reset_parameters()  # weights 1, biases 0
    init.table(model.embed.weight)
    if isinstance(model.bigram, Bigram):
        model.bigram.weight.zero_()
    if isinstance(model.positions, LearnedPositions):
        init.table(model.positions.weight)
    for block in model.blocks:
        assert isinstance(block, Block)
        attention, mlp = block.attention, block.mlp
        for layer in (attention.query, attention.key, attention.value, *mlp.inputs()):
            init.linear(layer)
        for layer in (attention.output, mlp.down):
            init.branch_output(layer)
    if model.config.tied:
        init.bias(model.head)
    else:
        init.linear(model.head)
    for module in model.modules():  # after all others, so that these are the same with and without adapters
        if isinstance(module, LoRALinear):
            init.normal(module.lora_a, module.in_features**-0.5)
            module.lora_b.zero_()
    if model.value_head is not None:
        init.normal(model.value_head.weight, model.config.value_std * model.config.n_embd**-0.5)
