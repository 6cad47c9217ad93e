"""LoRA: a trained weight is a frozen one plus a product of two small matrices.

    y = W x + b + (alpha / rank) · B (A x)          A [rank, in], B [out, rank]

B starts at zero, so a new adapter changes nothing. Every linear layer of the blocks has one; embedding, norms and heads
have none. `model.lora` in the settings makes the layers, `freeze_base` decides what is trained, and `merge` gives the
weights of a plain model: W + (alpha / rank) · B A. Their names: `blocks.0.attention.query.lora_a`, `….lora_b`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fledge.model.config import ModelConfig

if TYPE_CHECKING:
    from fledge.model.gpt import GPT

A, B = ".lora_a", ".lora_b"
VALUE_HEAD = "value_head.weight"


class LoRALinear(nn.Linear):
    def __init__(self, inputs: int, outputs: int, bias: bool, rank: int, scale: float) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.lora_a = nn.Parameter(torch.empty(rank, inputs))
        self.lora_b = nn.Parameter(torch.empty(outputs, rank))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """x [..., inputs] → [..., outputs]"""
        low = F.linear(x, self.lora_a)  # [..., rank]
        return F.linear(x, self.weight, self.bias) + self.scale * F.linear(low, self.lora_b)


def make_linear(config: ModelConfig, inputs: int, outputs: int, *, bias: bool) -> nn.Linear:
    """A linear layer of a block."""
    if config.lora is None:
        return nn.Linear(inputs, outputs, bias=bias)
    return LoRALinear(inputs, outputs, bias, config.lora, config.lora_scale)


def freeze_base(model: "GPT") -> "GPT":
    """Train the adapters and the value head only, with `model.lora_embeddings` also the embedding and the head.

    A model without adapters stays as it is.
    """
    adapters = [module for module in model.modules() if isinstance(module, LoRALinear)]
    if adapters:
        model.requires_grad_(False)
        for adapter in adapters:
            adapter.lora_a.requires_grad_(True)
            adapter.lora_b.requires_grad_(True)
        if model.value_head is not None:
            model.value_head.requires_grad_(True)
        if model.config.lora_embeddings:
            model.embed.requires_grad_(True)
            model.head.requires_grad_(True)
    return model


def plain_config(config: ModelConfig, *, value_head: bool = False) -> ModelConfig:
    """The model after `merge`, without adapters. value_head: keep that of a model that has one."""
    plain = replace(config, lora=None, lora_alpha=None, lora_embeddings=False)
    return plain if value_head else replace(plain, value_head=False, value_std=0.0)


def merge(weights: Mapping[str, Tensor], config: ModelConfig, *, value_head: bool = False) -> dict[str, Tensor]:
    """The weights of a model of this configuration → those of `plain_config(config)`. Others are shared, not copied."""
    merged = {name: weight for name, weight in weights.items() if not name.endswith((A, B))}
    for name, down in weights.items():
        if name.endswith(A):
            layer = name.removesuffix(A)
            base, up = weights[f"{layer}.weight"], weights[layer + B]
            change = config.lora_scale * (up.float() @ down.float())
            merged[f"{layer}.weight"] = (base.float() + change).to(base.dtype)
    if not value_head:
        merged.pop(VALUE_HEAD, None)
    return merged
