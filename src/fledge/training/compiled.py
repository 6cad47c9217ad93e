"""torch.compile, verified before it is used.

The compiler writes code on the user's machine, and it can be wrong: torch 2.11 compiled losses whose gradients were all
zero. So the first call computes a batch twice, compiled and eager, and compares loss and gradient norms. Where they
differ, or the compiler fails, training continues with the eager code.
"""

import contextlib
import hashlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from fledge.batches.loader import Batch
from fledge.core.device import Machine, processor
from fledge.core.distributed import World, full_tensor
from fledge.core.errors import out_of_memory
from fledge.core.files import cache_dir
from fledge.model.gpt import GPT
from fledge.training.objective import LossSum, Objective


class Loss(Protocol):
    """An objective applied to a wrapped model."""

    def __call__(self, batch: Batch, /) -> LossSum: ...

    def set_gradient_sync(self, on: bool, /) -> None:
        """Whether the next backward pass all-reduces gradients: True on the last micro-batch only."""


# Largest ratio of compiled to eager: (loss, gradient norm of a parameter). Rounding alone stays within
# 1.0001 and 1.001 for every preset. With dropout each draws its own masks, so only gross errors are detected.
TOLERANCE = {"float32": (1.0001, 1.001), "bfloat16": (1.01, 1.05), "float16": (1.01, 1.05)}
DROPOUT_TOLERANCE = (1.2, 4.0)
# A difference in one parameter is ignored below this share of what the tolerance allows for the whole gradient.
IGNORED_SHARE = 0.01
LOSS = "loss"


@dataclass(frozen=True)
class CompileCheck:
    ok: bool
    reason: str = ""  # why the compiled code is not used


EAGER_NOTICE = "training without torch.compile, more slowly"
Report = Callable[[CompileCheck], None]


def no_report(_: CompileCheck) -> None: ...


class CompiledLoss:
    """A compiled `Loss`, checked at its first call; the eager one where the check or the compiler fails."""

    def __init__(
        self, eager: Loss, objective: Objective, model: GPT, machine: Machine, report: Report = no_report
    ) -> None:
        self.report = report
        self._eager, self._objective, self._model, self._machine = eager, objective, model, machine
        self._compiled: Callable[[Batch], LossSum] | None = torch.compile(eager, dynamic=False)
        self._checked: set[torch.Size] = set()  # each shape gets its own code
        self._sync = True

    def __call__(self, batch: Batch) -> LossSum:
        if self._compiled is not None and batch.inputs.shape not in self._checked:
            self._check(batch)
        loss = self._eager if self._compiled is None else self._compiled
        return loss(batch)

    def set_gradient_sync(self, on: bool) -> None:
        self._sync = on
        self._eager.set_gradient_sync(on)

    @property
    def in_use(self) -> bool:
        """Whether the compiled code is used."""
        return self._compiled is not None

    def state_dict(self) -> dict[str, Any]:
        return {"in_use": self.in_use}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not state.get("in_use", True):
            self._compiled = None  # the check had failed before the run was interrupted

    def _check(self, batch: Batch) -> None:
        if not torch.is_grad_enabled():
            return
        assert self._compiled is not None
        self._eager.set_gradient_sync(True)
        found = check(self._compiled, self._eager, self._objective, self._model, self._machine, batch)
        self._eager.set_gradient_sync(self._sync)
        self._checked.add(batch.inputs.shape)
        if not found.ok:
            self._compiled = None
        self.report(found)


def check(
    fast: Callable[[Batch], LossSum], eager: Loss, objective: Objective, model: GPT, machine: Machine, batch: Batch
) -> CompileCheck:
    """Compare loss and the gradient norm of every parameter. All ranks get the same result.

    The compiled code gets a batch of full size that repeats two rows; the eager code computes those two rows alone, so
    the check needs neither the memory nor the time of an eager batch and still runs the code that training will use.
    """
    rows, world = len(batch.inputs), machine.world
    distinct = 1 if rows % 2 else 2
    repeated = torch.arange(rows, device=batch.inputs.device) % distinct
    count = max(1, world.all_reduce_max(int(objective.count(batch))))
    scale = (2.0**12 if machine.dtype == "float16" else 1.0) / count
    with torch.random.fork_rng([batch.inputs.device] if batch.inputs.is_cuda else []), gradients_kept(model):
        compiled, failure = {}, ""
        try:
            compiled = _loss_and_norms(fast(batch.map(lambda t: t[repeated])).total * scale, model, world)
        except Exception as error:
            if out_of_memory(error):
                raise
            failure = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        if failure := world.first_message(failure):
            return CompileCheck(False, f"torch.compile failed ({failure})")
        reference = eager(batch.map(lambda t: t[:distinct])).total * (scale * rows / distinct)
        expected = _loss_and_norms(reference, model, world)
    return compare(compiled, expected, DROPOUT_TOLERANCE if model.config.dropout else TOLERANCE[machine.dtype])


def _loss_and_norms(loss: Tensor, model: GPT, world: World) -> dict[str, float]:
    """The loss, as LOSS, and the norm of each parameter's gradient."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    norms = {name: full_tensor(p.grad.norm()) for name, p in model.named_parameters() if p.grad is not None}
    numbers = torch.stack([world.all_reduce_sum(loss.detach().clone()), *norms.values()]).tolist()
    return dict(zip([LOSS, *norms], numbers, strict=True))


def compare(compiled: dict[str, float], expected: dict[str, float], tolerance: tuple[float, float]) -> CompileCheck:
    """Non-finite eager numbers pass: they are left to the divergence monitor."""
    whole_gradient = math.hypot(*(norm for name, norm in expected.items() if name != LOSS))
    if not math.isfinite(expected[LOSS]) or not math.isfinite(whole_gradient):
        return CompileCheck(True)
    loss_factor, norm_factor = tolerance
    for name, eager in expected.items():
        found, factor = compiled.get(name, 0.0), loss_factor if name == LOSS else norm_factor
        slack = 0.0 if name == LOSS else min(1.0, factor - 1) * IGNORED_SHARE * whole_gradient
        if not eager / factor - slack <= found <= eager * factor + slack:  # also where it is NaN
            what = "the loss" if name == LOSS else f"the gradient of {name}"
            wrong = f"{what} is {found:.4g} instead of {eager:.4g}"
            return CompileCheck(False, f"torch.compile produced a wrong result (torch {torch.__version__}): {wrong}")
    return CompileCheck(True)


@contextlib.contextmanager
def gradients_kept(model: GPT) -> Iterator[None]:
    """The block leaves the accumulated gradients as they are."""
    parameters = list(model.parameters())
    kept = [p.grad for p in parameters]
    try:
        yield
    finally:
        for p, gradient in zip(parameters, kept, strict=True):
            p.grad = gradient


def keep_compiled_code() -> None:
    """Cache compiled code, so that a second run starts soon. Must run before torch imports its compiler.

    Each kind of processor has its own folder: torch would load AVX-512 code on a machine without it.
    """
    kind = f"{processor()} {torch.backends.cpu.get_cpu_capability()} {torch.__version__}"
    folder = cache_dir() / "compiled" / hashlib.sha256(kind.encode()).hexdigest()[:12]
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
