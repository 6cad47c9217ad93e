"""What is put around the plain model to train it: the loss, the precision, the compiler, the other ranks.

ddp     every rank holds the whole model, and adds its gradient to those of the others
fsdp    every rank holds a part of each weight, and borrows the rest of a block while it is at work there

The model itself stays untouched, so its weights keep their names whatever stands around it.
"""

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
import torch.distributed as dist
import torch.utils.deterministic
from torch import Tensor, nn

from fledge.base.company import spread_like, whole
from fledge.base.files import cache_dir
from fledge.base.machine import Machine
from fledge.model.gpt import GPT
from fledge.train.ending import ending


class Loss(Protocol):
    def __call__(self, inputs: Tensor, targets: Tensor, /) -> Tensor:
        """Summed over all valid targets."""

    def add_up(self, now: bool) -> None:
        """Whether the next way back adds the gradients of all ranks, or keeps them for later."""


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

    def add_up(self, now: bool) -> None:
        """Alone there is nothing to add."""


class Replicated(nn.parallel.DistributedDataParallel):
    """Adds gradients up while the way back is still going on."""

    def add_up(self, now: bool) -> None:
        self.require_backward_grad_sync = now  # what its own no_sync() sets, for a block of code


class Sharded(LossModel):
    def add_up(self, now: bool) -> None:
        self.model.set_requires_gradient_sync(now)  # type: ignore[operator]  # fully_shard gives it to the model


def replicated(model: GPT, machine: Machine) -> Replicated:
    model.to(machine.device)
    own = [torch.cuda.current_device()] if machine.device == "cuda" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # broadcast_buffers is about to have another name
        loss = Replicated(
            LossModel(model, machine), device_ids=own, broadcast_buffers=False, gradient_as_bucket_view=True
        )
    loss.register_comm_hook(None, _added)
    # After its first way back it puts gradients together in another order, and sums of floats depend on that. So this
    # happens before the first step, and a run that is resumed adds in the order of one that never stopped.
    ids = torch.zeros(1, 1, dtype=torch.long, device=machine.device)
    loss(ids, ids).backward()
    model.zero_grad()
    return loss


def _added(_: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    """The sum; by itself it takes the mean. The loss is divided by what all ranks have counted already."""
    done = dist.all_reduce(bucket.buffer(), async_op=True)
    assert done is not None
    return done.get_future().then(lambda sums: sums.value()[0])


def sharded(model: GPT, machine: Machine) -> Sharded:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(machine.device, (machine.company.size,))
    for part in (*model.blocks, model):
        # Whole weights are borrowed, never kept: between steps the model has its own parts, under its own names.
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
        assert isinstance(part, FSDPModule)
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(model, "following")
    register_fsdp_forward_method(model, "into")
    return Sharded(model, machine)


Turn = Callable[[Sequence[Tensor], torch.dtype], list[Tensor]]


def by_all(turn: Turn) -> Turn:
    """Muon turns whole matrices: each rank does it with those of all, and keeps its own part of the answer."""

    def turned(matrices: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
        answers = turn([whole(matrix) for matrix in matrices], dtype)
        return [spread_like(answer, matrix) for answer, matrix in zip(answers, matrices, strict=True)]

    return turned


def alone(model: GPT, machine: Machine) -> LossModel:
    return LossModel(model.to(machine.device), machine)


PARALLEL: dict[str, Callable[[GPT, Machine], LossModel | Replicated]] = {"ddp": replicated, "fsdp": sharded}


def exact() -> None:
    """Same machine, same settings, same bits: no sums in whatever order threads happen to finish.

    A switch of the whole process, turned once, before a model is built. Where torch has no exact way, it warns.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for; read when CUDA starts
    # torch.use_deterministic_algorithms() says the same to torch and to its compiler, which it imports for that: 1.7 s.
    torch.set_deterministic_debug_mode("warn")
    os.environ["TORCHINDUCTOR_DETERMINISTIC"] = "1"  # read by the compiler, should it be imported
    if compiler := sys.modules.get("torch._inductor.config"):
        compiler.deterministic = True  # type: ignore[attr-defined]
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a help for debugging that costs time


def keep_compiled() -> None:
    """So that a second run starts soon. Said before torch imports its compiler, which else takes a temporary folder."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "compiled"))


class Compiled:
    """The same function in faster code; as it was, with one line said, when the compiler turns out not to work."""

    def __init__(self, plain: LossModel | Replicated, warn: Callable[[str], None]) -> None:
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

    def add_up(self, now: bool) -> None:
        self._plain.add_up(now)


def _compiler_errors() -> tuple[type[Exception], ...]:
    """Asked for when something has failed: the compiler's modules take a second to import."""
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

    return TorchDynamoException, CppCompileError, InvalidCxxCompiler


def wrap(
    model: GPT, machine: Machine, *, compile: bool, warn: Callable[[str], None] = print, parallel: str = "ddp"
) -> Loss:
    """Moves the model to the device, too. Its weights may become other objects: optimisers come after this."""
    around = PARALLEL[parallel] if machine.company.size > 1 else alone
    loss_model = around(model, machine)
    return Compiled(loss_model, warn) if compile else loss_model
