"""The end of the model in training: head and loss in one, all scores at once or, of a large vocabulary, in portions.

Which of the two is decided once, when the model is wrapped. What a portion is, is in loss.py.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from fledge.base.machine import Machine
from fledge.loss import Capped, Portions, Straight, loss_in_portions, summed_cross_entropy
from fledge.model import count
from fledge.model.gpt import GPT
from fledge.model.head import CappedHead, Head

Ending = Callable[[Tensor, Tensor, Head], Tensor]  # targets [B, T], vectors [B, T, C], head → summed loss

# What each head does to its scores. Of a head that is not named here all scores are made at once.
SHAPES: dict[type[Head], Callable[[Any], Straight | Capped]] = {
    Head: lambda _: Straight(),
    CappedHead: lambda head: Capped(head.softcap),
}


def ending(model: GPT, machine: Machine) -> Ending:
    shape = SHAPES.get(type(model.head))
    if shape is None or not count.in_portions(model.config):
        return _at_once
    return partial(_in_portions, Portions(count.PORTION, machine.torch_dtype, shape(model.head)))


def _at_once(targets: Tensor, hidden: Tensor, head: Head) -> Tensor:
    return summed_cross_entropy(head(hidden), targets)


def _in_portions(how: Portions, targets: Tensor, hidden: Tensor, head: Head) -> Tensor:
    return loss_in_portions(hidden, head.weight, head.bias, targets, how)
