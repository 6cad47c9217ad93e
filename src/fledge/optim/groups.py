"""Which parameter follows which rule.

matrices of blocks                     Muon, or AdamW with weight decay
embedding and head (matrices, too)     AdamW with weight decay; beside Muon without, at rates of their own
vectors (norms, biases)                AdamW without weight decay
"""

from typing import Any

import torch
from torch import Tensor, nn

from fledge.base.machine import Machine
from fledge.model.gpt import GPT
from fledge.optim.config import OptimConfig
from fledge.optim.muon import Muon


class Together:
    """Several optimisers as one: each moves its own parameters."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> dict[Tensor, Any]:
        return {p: memory for part in self.parts for p, memory in part.state.items()}

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()

    def load_state_dict(self, told: dict[str, Any]) -> None:
        """Parameters are numbered through all groups."""
        first = 0
        for part in self.parts:
            own = part.state_dict()["param_groups"]
            count = sum(len(group["params"]) for group in own)
            state = {n - first: memory for n, memory in told["state"].items() if first <= n < first + count}
            part.load_state_dict({"state": state, "param_groups": own})
            first += count


Optimizer = torch.optim.Optimizer | Together


def build_optimizer(model: GPT, config: OptimConfig, machine: Machine) -> Optimizer:
    """Each group knows the `peak` of its own learning rate; the schedule multiplies all of them alike."""
    return RULES[config.rule](model, config, machine)


def _adamw(model: GPT, config: OptimConfig, machine: Machine) -> Optimizer:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    return _adam([(matrices, config.lr, config.weight_decay), (vectors, config.lr, 0.0)], config, machine)


def _muon(model: GPT, config: OptimConfig, machine: Machine) -> Optimizer:
    blocks = list(model.blocks.parameters())
    matrices = [p for p in blocks if p.ndim == 2]
    embedding = [model.embed.weight, *model.pairs.parameters()]
    head = [] if model.config.tied else [model.head.weight]
    named = {id(p) for p in [*matrices, *embedding, *head]}
    others = [p for p in model.parameters() if id(p) not in named]
    groups = [
        (embedding, config.embed_lr or config.lr, 0.0),
        (head, config.head_lr or config.lr, 0.0),
        (others, config.lr, 0.0),
    ]
    muon = Muon(matrices, config.muon_lr, config.weight_decay, config.momentum, config.cautious, machine.torch_dtype)
    muon.param_groups[0]["peak"] = config.muon_lr
    return Together(muon, _adam(groups, config, machine))


def _adam(
    groups: list[tuple[list[nn.Parameter], float, float]], config: OptimConfig, machine: Machine
) -> torch.optim.Optimizer:
    """Groups of parameters, their peak learning rate, their weight decay."""
    return torch.optim.AdamW(
        [{"params": p, "peak": peak, "lr": peak, "weight_decay": decay} for p, peak, decay in groups if p],
        betas=config.betas,
        eps=config.eps,
        fused=machine.device in ("cpu", "cuda"),
    )


RULES = {"adamw": _adamw, "muon": _muon}
