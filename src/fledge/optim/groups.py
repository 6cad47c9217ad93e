"""Parameter groups: which optimizer updates which parameter, at which learning rate.

2-D weights of blocks                  Muon, or AdamW with weight decay
embedding and head (matrices, too)     AdamW with weight decay; with Muon: without, at learning rates of their own
learned positions (a matrix, too)      AdamW with weight decay; with Muon: without
value head, LoRA (matrices, too)       AdamW with weight decay; with Muon: without
vectors (norms, biases)                AdamW without weight decay
frozen ones                            no group

With optim.decay = "all" every trained parameter decays; with Muon, those that AdamW updates, too.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fledge.model.gpt import GPT
from fledge.model.lora import LoRALinear
from fledge.optim.config import OptimConfig
from fledge.optim.muon import Muon


def build_optimizer(model: GPT, config: OptimConfig, dtype: torch.dtype) -> torch.optim.Optimizer:
    """Every group has an `initial_lr`, its peak; the schedule multiplies all of them by the same number.

    `dtype` is that of Muon's matrix products.
    """
    return OPTIMIZERS[config.optimizer](model, config, dtype)


def _adamw(model: GPT, config: OptimConfig, _: torch.dtype) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices, vectors = [p for p in trained if p.ndim >= 2], [p for p in trained if p.ndim < 2]
    groups = [_group(matrices, config.lr, config.weight_decay), _group(vectors, config.lr, _other_decay(config))]
    return torch.optim.AdamW([group for group in groups if group["params"]], **_options(config))


def _muon(model: GPT, config: OptimConfig, dtype: torch.dtype) -> torch.optim.Optimizer:
    by_shape: dict[torch.Size, list[nn.Parameter]] = {}
    adapters = {id(p) for each in model.modules() if isinstance(each, LoRALinear) for p in (each.lora_a, each.lora_b)}
    for p in model.blocks.parameters():
        if id(p) not in adapters:
            by_shape.setdefault(p.shape, []).append(p)
    groups = [
        {**_group(params, config.muon_lr, config.weight_decay), "momentum": config.momentum}
        for shape, params in by_shape.items()
        if len(shape) == 2
    ]
    embedding = [model.embed.weight] if model.config.bigram_rows is None else [model.embed.weight, model.bigram.weight]
    head = [] if model.config.tied else [model.head.weight]
    decay = _other_decay(config)
    groups += [_group(embedding, config.embed_lr or config.lr, decay), _group(head, config.head_lr or config.lr, decay)]
    grouped = {id(p) for group in groups for p in group["params"]}
    groups.append(_group([p for p in model.parameters() if id(p) not in grouped], config.lr, decay))
    return Muon([group for group in groups if group["params"]], dtype, **_options(config))


def _other_decay(config: OptimConfig) -> float:
    """The weight decay of vectors; with Muon, of everything that AdamW updates."""
    return config.weight_decay if config.decay == "all" else 0.0


def _group(params: Iterable[Tensor], lr: float, weight_decay: float) -> dict[str, Any]:
    return {"params": [p for p in params if p.requires_grad], "initial_lr": lr, "lr": lr, "weight_decay": weight_decay}


def _options(config: OptimConfig) -> dict[str, Any]:
    return {"betas": config.betas, "eps": config.eps, "fused": True}


OPTIMIZERS = {"adamw": _adamw, "muon": _muon}
