"""What is put around the plain model to train it: the loss, the precision, the compiler.

The model itself stays untouched, so its weights keep their names whatever stands around it.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fledge.base.machine import Machine
from fledge.loss import summed_cross_entropy
from fledge.model.gpt import GPT


class LossModel(nn.Module):
    """Inputs and targets [B, T] → summed loss, in the precision of the machine."""

    def __init__(self, model: GPT, machine: Machine) -> None:
        super().__init__()
        self.model = model
        self.machine = machine

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        with self.machine.autocast():
            logits = self.model(inputs)
        return summed_cross_entropy(logits, targets)


def wrap(model: GPT, machine: Machine, *, compile: bool) -> Callable[[Tensor, Tensor], Tensor]:
    loss_model = LossModel(model, machine)
    if not compile:
        return loss_model
    compiled: Callable[[Tensor, Tensor], Tensor] = torch.compile(loss_model, dynamic=False)
    return compiled
