"""Wraps the plain model for training: precision, compiler, DDP and FSDP, activation checkpointing, sharded Muon.

Also switches on deterministic algorithms.

ddp     every rank holds the whole model; gradients are all-reduced
fsdp    every rank holds a shard of each weight and gathers a block's weights while it computes

The model itself stays untouched, so its weights keep their names.
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

from fledge.batches.loader import Batch
from fledge.core.device import Machine
from fledge.core.distributed import full_tensor, shard_like
from fledge.model.gpt import GPT
from fledge.training.compiled import CompiledLoss, Loss, Report, no_report
from fledge.training.objective import LossSum, NextTokenObjective, Objective


class LossModel(nn.Module):
    """An objective and its model as one module: batch → LossSum, in the precision of the machine."""

    def __init__(self, model: GPT, machine: Machine, objective: Objective | None = None) -> None:
        super().__init__()
        self.model = model
        self.machine = machine
        self.objective = objective or NextTokenObjective()

    def forward(self, batch: Batch) -> LossSum:
        with self.machine.autocast():
            return self.objective(self.model, batch)

    def set_gradient_sync(self, on: bool) -> None:
        """A single process has no gradients to all-reduce."""


class DDPLoss(nn.parallel.DistributedDataParallel):
    """All-reduces gradients during the backward pass."""

    def set_gradient_sync(self, on: bool) -> None:
        self.require_backward_grad_sync = on  # as its own no_sync() does for a block of code


class FSDPLoss(LossModel):
    def set_gradient_sync(self, on: bool) -> None:
        self.model.set_requires_gradient_sync(on)  # type: ignore[operator]  # added to the model by fully_shard


def wrap_ddp(model: GPT, machine: Machine, objective: Objective) -> DDPLoss:
    inner = LossModel(model.to(machine.device), machine, _EveryParameter())
    device_ids = [torch.cuda.current_device()] if machine.device == "cuda" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # broadcast_buffers is about to be renamed
        loss = DDPLoss(inner, device_ids=device_ids, broadcast_buffers=False, gradient_as_bucket_view=True)
    loss.register_comm_hook(None, _sum_gradients)
    # DDP reorders its buckets after the first backward pass, and sums of floats depend on the order. That pass is done
    # here, so that a resumed run sums in the same order as one that never stopped.
    ids = torch.zeros(1, 1, dtype=torch.long, device=machine.device)
    loss(Batch(ids, ids)).total.backward()
    model.zero_grad()
    inner.objective = objective
    return loss


class _EveryParameter(NextTokenObjective):
    """A loss that reaches both heads: DDP waits for the gradient of every parameter that is trained."""

    def __call__(self, model: GPT, batch: Batch) -> LossSum:
        if model.value_head is None:
            return super().__call__(model, batch)
        loss, values = model.loss_and_values(batch.inputs, batch.targets, self.head_loss)
        return LossSum(loss + values.sum(), self.count(batch))


def _sum_gradients(_: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    """The sum instead of DDP's mean: the loss has been divided by the global count already."""
    done = dist.all_reduce(bucket.buffer(), async_op=True)
    assert done is not None
    return done.get_future().then(lambda sums: sums.value()[0])


def wrap_fsdp(model: GPT, machine: Machine, objective: Objective) -> FSDPLoss:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(machine.device, (machine.world.size,))
    for part in (*model.blocks, model):
        # Whole weights are freed after use, so that between steps the model has its own shards, under its own names.
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
        assert isinstance(part, FSDPModule)
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(model, "next_token_logits")
    for method in ("forward_loss", "values", "loss_and_values"):
        register_fsdp_forward_method(model, method)
    return FSDPLoss(model, machine, objective)


Orthogonalize = Callable[[Sequence[Tensor], torch.dtype], list[Tensor]]


def orthogonalize_sharded(orthogonalize: Orthogonalize) -> Orthogonalize:
    """Muon needs whole matrices: every rank gathers and orthogonalises all of them, and keeps its own shards."""

    def sharded(matrices: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
        whole = orthogonalize([full_tensor(matrix) for matrix in matrices], dtype)
        return [shard_like(result, matrix) for result, matrix in zip(whole, matrices, strict=True)]

    return sharded


def wrap_single(model: GPT, machine: Machine, objective: Objective) -> LossModel:
    return LossModel(model.to(machine.device), machine, objective)


PARALLEL: dict[str, Callable[[GPT, Machine, Objective], LossModel | DDPLoss]] = {"ddp": wrap_ddp, "fsdp": wrap_fsdp}


def use_deterministic_algorithms() -> None:
    """Same machine, same settings, same bits: no sums whose order depends on threads. Call before building a model.

    Process-wide. Where torch has no deterministic implementation, it warns.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by cuBLAS; read when CUDA starts
    # torch.use_deterministic_algorithms() does the same, but imports the compiler for it: 1.7 s.
    torch.set_deterministic_debug_mode("warn")
    os.environ["TORCHINDUCTOR_DETERMINISTIC"] = "1"  # read when the compiler is imported
    if compiler := sys.modules.get("torch._inductor.config"):
        compiler.deterministic = True  # type: ignore[attr-defined]
    # A debugging aid that costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def checkpoint_blocks(model: GPT) -> None:
    """Keep only the input of each block; its activations are recomputed in the backward pass."""
    for block in model.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def wrap(
    model: GPT,
    machine: Machine,
    objective: Objective | None = None,
    *,
    compile: bool = False,
    activation_checkpointing: bool = False,
    parallel: str = "ddp",
    report: Report = no_report,
) -> Loss:
    """Also moves the model to the device. FSDP replaces its parameters, so optimizers are built after this."""
    objective = objective or NextTokenObjective()
    if activation_checkpointing:
        checkpoint_blocks(model)
    wrap_model = PARALLEL[parallel] if machine.world.size > 1 else wrap_single
    loss = wrap_model(model, machine, objective)
    return CompiledLoss(loss, objective, model, machine, report) if compile else loss
