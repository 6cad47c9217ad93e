"""Where did it begin? The first weight, layer or gradient that is no finite number, found by doing the batch again.

Slow, and called only when something has gone wrong. Ranks look together, each in its part of the batch.
Changes nothing: gradients are thrown away, chance is given back.
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

NOWHERE = "nothing that could be found again"


def find_anomaly(model: GPT, objective: Objective, batches: Sequence[Batch], machine: Machine) -> str:
    """In words: 'the weight blocks.0.mlp.up.weight', 'what blocks.1.attention gives', 'the gradient of head.weight'."""
    agreed = machine.world.first_message
    if found := agreed(_in_weights(model)):
        return found
    loss = LossModel(model, machine, objective)
    with torch.random.fork_rng():
        for batch in batches:
            if found := agreed(_in_layers(model, loss, batch)) or agreed(_in_gradients(model, loss, batch)):
                return found
    return NOWHERE


def is_finite(numbers: Tensor) -> bool:
    """As far as this rank holds them."""
    return bool(torch.isfinite(to_local(numbers.detach())).all())


def checksum(model: GPT, world: World) -> int:
    """Of all weights: another one when any bit of any of them is another."""
    parts = [to_local(p.detach()).contiguous().view(torch.int32).sum(dtype=torch.int64) for p in model.parameters()]
    return int(world.all_reduce_sum(torch.stack(parts).sum()))


def _in_weights(model: GPT) -> str:
    return next((f"the weight {name}" for name, weight in model.named_parameters() if not is_finite(weight)), "")


def _in_layers(model: GPT, loss: LossModel, batch: Batch) -> str:
    """The layers in the order in which they speak; the smallest that is at fault speaks first."""
    found: list[str] = []

    def listen(name: str) -> None:
        def heard(_: nn.Module, __: object, answer: object) -> None:
            if isinstance(answer, Tensor) and not is_finite(answer):
                found.append(f"what {name} gives")

        hooks.append(layers[name].register_forward_hook(heard))

    layers = {name: layer for name, layer in model.named_modules() if name}
    hooks: list[torch.utils.hooks.RemovableHandle] = []
    try:
        for name in layers:
            listen(name)
        with torch.no_grad():
            total = loss(batch).total
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else "" if is_finite(total) else "the loss"


def _in_gradients(model: GPT, loss: LossModel, batch: Batch) -> str:
    """From the loss back to the text, as gradients travel."""
    model.zero_grad(set_to_none=True)
    loss(batch).total.backward()
    names = [name for name, p in model.named_parameters() if p.grad is not None and not is_finite(p.grad)]
    model.zero_grad(set_to_none=True)
    return f"the gradient of {names[-1]}" if names else ""
