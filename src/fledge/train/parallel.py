"""What is put around the plain model to train it: the loss, the precision, the compiler.

The model itself stays untouched, so its weights keep their names whatever stands around it.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.utils.deterministic
from torch import Tensor, nn

from fledge.base.files import cache_dir
from fledge.base.machine import Machine
from fledge.loss import Capped, Portions, Straight, loss_in_portions, summed_cross_entropy
from fledge.model import count
from fledge.model.gpt import GPT
from fledge.model.head import CappedHead, Head


class LossModel(nn.Module):
    """Inputs and targets [B, T] → summed loss, in the precision of the machine."""

    def __init__(self, model: GPT, machine: Machine) -> None:
        super().__init__()
        self.model = model
        self.machine = machine
        self.end = ending(model, machine)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        with self.machine.autocast():
            return self.model.into(inputs, partial(self.end, targets))


Ending = Callable[[Tensor, Tensor, Head], Tensor]  # targets [B, T], vectors [B, T, C], head → summed loss


def ending(model: GPT, machine: Machine) -> Ending:
    """Scores of a large vocabulary are not held for all tokens, where it is known what the head does."""
    shape = SHAPES.get(type(model.head))
    if shape is None or not count.in_portions(model.config):
        return _at_once
    return partial(_in_portions, Portions(count.PORTION, machine.torch_dtype, shape(model.head)))


SHAPES: dict[type[Head], Callable[[Any], Straight | Capped]] = {
    Head: lambda _: Straight(),
    CappedHead: lambda head: Capped(head.softcap),
}


def _at_once(targets: Tensor, hidden: Tensor, head: Head) -> Tensor:
    return summed_cross_entropy(head(hidden), targets)


def _in_portions(how: Portions, targets: Tensor, hidden: Tensor, head: Head) -> Tensor:
    return loss_in_portions(hidden, head.weight, head.bias, targets, how)


def exact() -> None:
    """Same machine, same settings, same bits: no sums in whatever order threads happen to finish.

    A switch of the whole process, turned once, before a model is built. Where torch has no exact way, it warns.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for; read when CUDA starts
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a help for debugging that costs time


def keep_compiled() -> None:
    """So that a second run starts soon. Said before torch imports its compiler, which else takes a temporary folder."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "compiled"))


class Compiled:
    """The same function in faster code; as it was, with one line said, when the compiler turns out not to work."""

    def __init__(self, plain: LossModel, warn: Callable[[str], None]) -> None:
        self._plain, self._warn = plain, warn
        self._call: Callable[[Tensor, Tensor], Tensor] = torch.compile(plain, dynamic=False)

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        try:
            return self._call(inputs, targets)
        except _compiler_errors() as error:
            if self._call is self._plain:
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
            self._warn(f"warning: torch.compile failed ({reason}): training without it, more slowly")
            self._call = self._plain
            return self._plain(inputs, targets)


def _compiler_errors() -> tuple[type[Exception], ...]:
    """Asked for when something has failed: the compiler's modules take a second to import."""
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

    return TorchDynamoException, CppCompileError, InvalidCxxCompiler


def wrap(
    model: GPT, machine: Machine, *, compile: bool, warn: Callable[[str], None] = print
) -> Callable[[Tensor, Tensor], Tensor]:
    loss_model = LossModel(model, machine)
    return Compiled(loss_model, warn) if compile else loss_model
