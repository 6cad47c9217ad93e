"""Which parameter follows which rule: matrices are pulled towards zero, vectors (norms, biases) are not."""

import torch

from fledge.base.machine import Machine
from fledge.model.gpt import GPT
from fledge.optim.config import OptimConfig


def build_optimizer(model: GPT, config: OptimConfig, machine: Machine) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=machine.device in ("cpu", "cuda"),
    )
