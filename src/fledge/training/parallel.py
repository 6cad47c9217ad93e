"""What is put around the plain model to train it: the loss, the precision, the other ranks, the compiler.

ddp     every rank holds the whole model, and adds its gradient to those of the others
fsdp    every rank holds a part of each weight, and borrows the rest of a block while it is at work there

The model itself stays untouched, so its weights keep their names whatever stands around it.
"""

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.distributed as dist
import torch.utils.deterministic
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fledge.core.device import Machine
from fledge.core.distributed import full_tensor, shard_like
from fledge.losses.cross_entropy import ChunkedLoss, full_logits_loss
from fledge.model.flops import CHUNK
from fledge.model.gpt import GPT, HeadLoss
from fledge.training.compiled import CompiledLoss, Loss, Report, ignore


class LossModel(nn.Module):
    """Inputs and targets [B, T] → summed loss, in the precision of the machine."""

    def __init__(self, model: GPT, machine: Machine, head_loss: HeadLoss = full_logits_loss) -> None:
        super().__init__()
        self.model = model
        self.machine = machine
        self.head_loss = head_loss

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        with self.machine.autocast():
            return self.model.forward_loss(inputs, targets, self.head_loss)

    def set_gradient_sync(self, on: bool) -> None:
        """A single process has nothing to add up."""


class DDPLoss(nn.parallel.DistributedDataParallel):
    """Adds gradients up while the backward pass is still going on."""

    def set_gradient_sync(self, on: bool) -> None:
        self.require_backward_grad_sync = on  # what its own no_sync() sets, for a block of code


class FSDPLoss(LossModel):
    def set_gradient_sync(self, on: bool) -> None:
        self.model.set_requires_gradient_sync(on)  # type: ignore[operator]  # fully_shard gives it to the model


def wrap_ddp(model: GPT, machine: Machine, head_loss: HeadLoss) -> DDPLoss:
    model.to(machine.device)
    own = [torch.cuda.current_device()] if machine.device == "cuda" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # broadcast_buffers is about to have another name
        loss = DDPLoss(
            LossModel(model, machine, head_loss), device_ids=own, broadcast_buffers=False, gradient_as_bucket_view=True
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


def wrap_fsdp(model: GPT, machine: Machine, head_loss: HeadLoss) -> FSDPLoss:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(machine.device, (machine.world.size,))
    for part in (*model.blocks, model):
        # Whole weights are borrowed, never kept: between steps the model has its own parts, under its own names.
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
        assert isinstance(part, FSDPModule)
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(model, "next_token_logits")
    register_fsdp_forward_method(model, "forward_loss")
    return FSDPLoss(model, machine, head_loss)


Turn = Callable[[Sequence[Tensor], torch.dtype], list[Tensor]]


def orthogonalize_on_owner(turn: Turn) -> Turn:
    """Muon turns whole matrices: each rank does it with those of all, and keeps its own part of the answer."""

    def turned(matrices: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
        answers = turn([full_tensor(matrix) for matrix in matrices], dtype)
        return [shard_like(answer, matrix) for answer, matrix in zip(answers, matrices, strict=True)]

    return turned


def wrap_single(model: GPT, machine: Machine, head_loss: HeadLoss) -> LossModel:
    return LossModel(model.to(machine.device), machine, head_loss)


PARALLEL: dict[str, Callable[[GPT, Machine, HeadLoss], LossModel | DDPLoss]] = {"ddp": wrap_ddp, "fsdp": wrap_fsdp}


def deterministic_sums() -> None:
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


def checkpoint_blocks(model: GPT) -> None:
    """Of each block only its input is kept; in the backward pass the block is computed again."""
    for block in model.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def wrap(
    model: GPT,
    machine: Machine,
    *,
    compile: bool = False,
    chunked: bool = False,
    activation_checkpointing: bool = False,
    parallel: str = "ddp",
    report: Report = ignore,
) -> Loss:
    """Moves the model to the device, too. Its weights may become other objects: optimisers come after this."""
    if activation_checkpointing:
        checkpoint_blocks(model)
    around = PARALLEL[parallel] if machine.world.size > 1 else wrap_single
    head_loss: HeadLoss = ChunkedLoss(CHUNK, machine.torch_dtype) if chunked else full_logits_loss
    if chunked and compile:
        head_loss = torch.compiler.disable(head_loss)
    loss = around(model, machine, head_loss)
    return CompiledLoss(loss, model, machine, report) if compile else loss
