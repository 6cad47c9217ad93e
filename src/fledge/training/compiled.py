"""torch.compile, trusted only after it has been checked.

A compiler writes the code on the user's machine, and it can be wrong: torch 2.11 has compiled losses whose gradients
were all zero. So the first call computes a batch twice, compiled and eager, and compares loss and gradients. Where they
differ, or where the compiler fails, training goes on with the eager code.
"""

import contextlib
import hashlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fledge.core.device import Machine, processor
from fledge.core.distributed import World, full_tensor
from fledge.core.errors import out_of_memory
from fledge.core.files import cache_dir
from fledge.losses.cross_entropy import count_valid
from fledge.model.gpt import GPT


class Loss(Protocol):
    def __call__(self, inputs: Tensor, targets: Tensor, /) -> Tensor:
        """Summed over all valid targets."""

    def set_gradient_sync(self, on: bool, /) -> None:
        """Whether the next backward pass adds up the gradients of all ranks, or keeps them for later."""


# How far compiled and eager may be apart: factors for the loss, and for a parameter's gradient norm. Rounding alone
# stays within 1.0001 and 1.001 for every preset. With dropout each draws its own masks: only gross errors can show.
TOLERANCE = {"float32": (1.0001, 1.001), "bfloat16": (1.01, 1.05), "float16": (1.01, 1.05)}
DROPOUT_TOLERANCE = (1.2, 4.0)
SMALL = 0.01  # of the whole gradient: differences below this share of the tolerance do not count
LOSS = "loss"


@dataclass(frozen=True)
class CompileCheck:
    ok: bool
    reason: str = ""  # why compiled code is not used


WITHOUT_COMPILER = "training without torch.compile, more slowly"
Report = Callable[[CompileCheck], None]


def ignore(_: CompileCheck) -> None: ...


class CompiledLoss:
    """A loss in faster code, checked at the first call; the eager one where the check or the compiler fails."""

    def __init__(self, eager: Loss, model: GPT, machine: Machine, report: Report = ignore) -> None:
        self.report = report
        self._eager, self._model, self._machine = eager, model, machine
        self._compiled: Callable[[Tensor, Tensor], Tensor] | None = torch.compile(eager, dynamic=False)
        self._checked: set[torch.Size] = set()  # the compiler writes new code for each shape
        self._sync = True

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        if self._compiled is not None and inputs.shape not in self._checked:
            self._check(inputs, targets)
        loss = self._eager if self._compiled is None else self._compiled
        return loss(inputs, targets)

    def set_gradient_sync(self, on: bool) -> None:
        self._sync = on
        self._eager.set_gradient_sync(on)

    @property
    def in_use(self) -> bool:
        """Whether it is the compiled code that trains."""
        return self._compiled is not None

    def use_eager(self) -> None:
        self._compiled = None

    def _check(self, inputs: Tensor, targets: Tensor) -> None:
        if not torch.is_grad_enabled():
            return
        assert self._compiled is not None
        self._eager.set_gradient_sync(True)
        found = check(self._compiled, self._eager, self._model, self._machine, inputs, targets)
        self._eager.set_gradient_sync(self._sync)
        self._checked.add(inputs.shape)
        if not found.ok:
            self._compiled = None
        self.report(found)


def check(
    fast: Callable[[Tensor, Tensor], Tensor], eager: Loss, model: GPT, machine: Machine, inputs: Tensor, targets: Tensor
) -> CompileCheck:
    """Both losses of one batch, and the gradient norm of every parameter. All ranks come to the same result.

    The batch is filled with its first two sequences, again and again: the eager code computes these two alone, so it
    needs neither the memory nor the time of a whole batch, and yet the very code is checked that training will run.
    """
    rows, world = len(inputs), machine.world
    distinct = 1 if rows % 2 else 2
    repeated = torch.arange(rows, device=inputs.device) % distinct
    valid = max(1, world.all_reduce_max(int(count_valid(targets))))
    scale = (2.0**12 if machine.dtype == "float16" else 1.0) / valid
    with torch.random.fork_rng([inputs.device] if inputs.is_cuda else []), gradients_put_aside(model):
        ours, failure = {}, ""
        try:
            ours = _loss_and_norms(fast(inputs[repeated], targets[repeated]) * scale, model, world)
        except Exception as error:
            if out_of_memory(error):
                raise
            failure = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        if failure := world.first_message(failure):
            return CompileCheck(False, f"torch.compile failed ({failure})")
        reference = eager(inputs[:distinct], targets[:distinct]) * (scale * rows / distinct)
        eagers = _loss_and_norms(reference, model, world)
    return compare(ours, eagers, DROPOUT_TOLERANCE if model.config.dropout else TOLERANCE[machine.dtype])


def _loss_and_norms(loss: Tensor, model: GPT, world: World) -> dict[str, float]:
    """The loss, under the name LOSS, and the norm of each parameter's gradient."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    norms = {name: full_tensor(p.grad.norm()) for name, p in model.named_parameters() if p.grad is not None}
    numbers = torch.stack([world.all_reduce_sum(loss.detach().clone()), *norms.values()]).tolist()
    return dict(zip([LOSS, *norms], numbers, strict=True))


def compare(ours: dict[str, float], eagers: dict[str, float], tolerance: tuple[float, float]) -> CompileCheck:
    """Where the eager numbers are not finite, nothing can be said: that is for the divergence monitor."""
    whole_gradient = math.hypot(*(norm for name, norm in eagers.items() if name != LOSS))
    if not math.isfinite(eagers[LOSS]) or not math.isfinite(whole_gradient):
        return CompileCheck(True)
    for name, eager in eagers.items():
        found, factor = ours.get(name, 0.0), tolerance[name != LOSS]
        slack = 0.0 if name == LOSS else min(1.0, factor - 1) * SMALL * whole_gradient
        if not eager / factor - slack <= found <= eager * factor + slack:  # also where it is NaN
            what = "the loss" if name == LOSS else f"the gradient of {name}"
            wrong = f"torch {torch.__version__} compiled it wrongly, {what} is {found:.4g} instead of {eager:.4g}"
            return CompileCheck(False, wrong)
    return CompileCheck(True)


@contextlib.contextmanager
def gradients_put_aside(model: GPT) -> Iterator[None]:
    parameters = list(model.parameters())
    kept = [p.grad for p in parameters]
    try:
        yield
    finally:
        for p, gradient in zip(parameters, kept, strict=True):
            p.grad = gradient


def keep_compiled_code() -> None:
    """So that a second run starts soon. Set before torch imports its compiler, which else takes a temporary folder.

    Each kind of processor has a folder of its own: torch would take code that was written for AVX-512 on one without.
    """
    kind = f"{processor()} {torch.backends.cpu.get_cpu_capability()} {torch.__version__}"
    folder = cache_dir() / "compiled" / hashlib.sha256(kind.encode()).hexdigest()[:12]
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
