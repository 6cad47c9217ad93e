"""Finds the origin of a non-finite loss or gradient: the first weight, layer or gradient that is not finite.

Slow, and called only after an anomaly: it computes the batch again. A collective: each rank examines its share of the
batch. Leaves weights and random generators as they are.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fledge.batches.loader import Batch
from fledge.core.device import Machine
from fledge.core.distributed import World, to_local
from fledge.model.gpt import GPT
from fledge.training.objective import Objective
from fledge.training.parallel import LossModel

NOT_REPRODUCED = "not found: everything is finite when the batch is computed again"


def find_anomaly(model: GPT, objective: Objective, batches: Sequence[Batch], machine: Machine) -> str:
    """'weight blocks.0.mlp.up.weight', 'output of blocks.1.attention' or 'gradient of head.weight'."""
    first = machine.world.first_message
    if found := first(_in_weights(model)):
        return found
    loss = LossModel(model, machine, objective)
    with torch.random.fork_rng():
        for batch in batches:
            if found := first(_in_layers(model, loss, batch)) or first(_in_gradients(model, loss, batch)):
                return found
    return NOT_REPRODUCED


def is_finite(tensor: Tensor) -> bool:
    """Of a sharded tensor: the part that this rank holds."""
    return bool(torch.isfinite(to_local(tensor.detach())).all())


def checksum(model: GPT, world: World) -> int:
    """Of all weights; changes with any bit."""
    parts = [to_local(p.detach()).contiguous().view(torch.int32).sum(dtype=torch.int64) for p in model.parameters()]
    return int(world.all_reduce_sum(torch.stack(parts).sum()))


def _in_weights(model: GPT) -> str:
    return next((f"weight {name}" for name, weight in model.named_parameters() if not is_finite(weight)), "")


def _in_layers(model: GPT, loss: LossModel, batch: Batch) -> str:
    """Hooks fire innermost first, so the first hit is the innermost module."""
    found: list[str] = []

    def watch(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def check(_: nn.Module, __: object, output: object) -> None:
            if isinstance(output, Tensor) and not is_finite(output):
                found.append(f"output of {name}")

        return layer.register_forward_hook(check)

    handles = [watch(name, layer) for name, layer in model.named_modules() if name]
    try:
        with torch.no_grad():
            total = loss(batch).total
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else "" if is_finite(total) else "the loss"


def _in_gradients(model: GPT, loss: LossModel, batch: Batch) -> str:
    """The last parameter in model order, which the backward pass reaches first."""
    model.zero_grad(set_to_none=True)
    loss(batch).total.backward()
    names = [name for name, p in model.named_parameters() if p.grad is not None and not is_finite(p.grad)]
    model.zero_grad(set_to_none=True)
    return f"gradient of {names[-1]}" if names else ""
