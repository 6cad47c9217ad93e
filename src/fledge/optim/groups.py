"""Which parameter follows which rule.

matrices of blocks                     Muon, or AdamW with weight decay
embedding and head (matrices, too)     AdamW with weight decay; beside Muon without, at rates of their own
vectors (norms, biases)                AdamW without weight decay
"""

from itertools import chain
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
        return dict(chain.from_iterable(part.state.items() for part in self.parts))

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def load_state(self, state: dict[Tensor, Any]) -> None:
        """What each parameter's optimiser remembers of it."""
        for part in self.parts:
            held = [p for group in part.param_groups for p in group["params"]]
            numbered = {number: state[p] for number, p in enumerate(held) if p in state}
            part.load_state_dict({"state": numbered, "param_groups": part.state_dict()["param_groups"]})


def build_optimizer(model: GPT, config: OptimConfig, machine: Machine) -> Together:
    """Each group knows the `peak` of its own learning rate; the schedule multiplies all of them alike."""
    return {"adamw": _adamw, "muon": _muon}[config.rule](model, config, machine)


def _adamw(model: GPT, config: OptimConfig, machine: Machine) -> Together:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    return Together(
        _adam([(matrices, config.lr, config.weight_decay), (vectors, config.lr, 0.0)], config, machine),
    )


def _muon(model: GPT, config: OptimConfig, machine: Machine) -> Together:
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
