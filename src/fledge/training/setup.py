"""Builds everything that one update needs from the settings: model, loss, optimizer, loader.

    model = build(config, seed)  →  transform  →  wrap (compile, DDP, FSDP)  →  optimizer, batches  →  TrainStep

Used for training, and to measure what an update costs (plan, demo).
"""

from collections.abc import Callable, Iterator
from functools import partial

from fledge.batches.loader import Batch, Loader, WindowReader
from fledge.batches.orders import SAMPLERS
from fledge.batches.sampler import WindowSampler
from fledge.core import device as machines
from fledge.core.cgroups import usable_cores
from fledge.core.config import listed_divisors
from fledge.core.device import Machine, find_compiler
from fledge.core.distributed import World, is_dtensor
from fledge.core.errors import UserError
from fledge.core.formatting import counted
from fledge.core.malloc import keep_freed_memory
from fledge.core.peak_flops import peak_flops
from fledge.core.progress import notice
from fledge.core.threads import busy_warning, local_ranks, other_load
from fledge.datasets.shards import Split
from fledge.model.flops import training_flops
from fledge.model.gpt import GPT
from fledge.model.init import build as build_model
from fledge.model.lora import freeze_base
from fledge.optim.groups import build_optimizer
from fledge.optim.muon import Muon
from fledge.optim.schedule import lr_multiplier, reaches_peak
from fledge.training.compiled import EAGER_NOTICE, CompileCheck, Report, keep_compiled_code
from fledge.training.config import Settings, TrainConfig
from fledge.training.loss_scaler import LOSS_SCALERS
from fledge.training.method import Trainable
from fledge.training.micro_batch import AutoMicroBatch, FixedMicroBatch, estimate, probe
from fledge.training.objective import Objective, next_token_objective
from fledge.training.parallel import LossModel, orthogonalize_sharded, use_deterministic_algorithms, wrap
from fledge.training.step import MicroBatches, TrainStep
from fledge.training.step_time import StepTime


def warn_if_eager(check: CompileCheck) -> None:
    if not check.ok:
        notice(f"warning: {check.reason}: {EAGER_NOTICE}")


class NextToken:
    """Trains on windows of a split: each token predicts the next one."""

    def __init__(self, settings: Settings, machine: Machine, split: Split) -> None:
        self.settings, self.machine, self.split = settings, machine, split

    def transform(self, model: GPT) -> GPT:
        return freeze_base(model)

    def objective(self, *, compile: bool) -> Objective:
        train = self.settings.train
        chunked, sampled = train.chunked_loss is True, train.sampled_softmax
        return next_token_objective(self.machine, chunked=chunked, sampled=sampled, compile=compile)

    def batches(self, model: GPT, objective: Objective) -> MicroBatches:
        reader = WindowReader(self.split, window_sampler(self.settings, len(self.split)))
        return loaded_batches(self.settings, self.machine, reader, model, objective)


def build_training(
    settings: Settings, machine: Machine, method: Trainable, report: Report = warn_if_eager
) -> TrainStep:
    """A new model, and everything that one update of it needs."""
    train, optim = settings.train, settings.optim
    keep_compiled_code()
    use_deterministic_algorithms()
    if machine.device == "cpu":
        keep_freed_memory()
    model = method.transform(build_model(settings.model, train.seed))
    compile = can_compile(settings, machine)
    objective = method.objective(compile=compile)
    loss = wrap(
        model,
        machine,
        objective,
        compile=compile,
        activation_checkpointing=train.activation_checkpointing,
        parallel=train.parallel,
        report=report,
    )
    optimizer = build_optimizer(model, optim, machine.torch_dtype)
    token_flops = 0.0 if train.sampled_softmax else training_flops(settings.trained_model)  # they depend on the batch
    if isinstance(optimizer, Muon) and is_dtensor(model.embed.weight):
        optimizer.orthogonalize = orthogonalize_sharded(optimizer.orthogonalize)
    return TrainStep(
        model=model,
        loss=loss,
        optimizer=optimizer,
        batches=method.batches(model, objective),
        multiplier=partial(lr_multiplier, optim, steps=train.steps),
        initial_lr=optim.lr,
        grad_clip=train.grad_clip,
        clip_each=train.clip_each,
        objective=objective,
        loss_scaler=LOSS_SCALERS[machine.dtype](),
        world=machine.world,
        set_gradient_sync=loss.set_gradient_sync,
        step_time=StepTime(machine.device, token_flops, partial(peak_flops, machine)),
    )


def window_sampler(settings: Settings, tokens: int) -> WindowSampler:
    """Which window of a training split of so many tokens is sample n: for training, and to trace it afterwards."""
    context, data, train = settings.train_context, settings.data, settings.train
    return SAMPLERS[data.order](tokens, context, data.stride or context, train.seed, train.batch)


def learned_tokens(settings: Settings, train_tokens: int, steps: int) -> int:
    """How many targets the first steps of a run have, in a training split of so many tokens."""
    windows = window_sampler(settings, train_tokens).windows_in(steps * settings.train.batch)
    return windows * settings.train_context


def loaded_batches(
    settings: Settings, machine: Machine, reader: Callable[[int, int], Batch], model: GPT, objective: Objective
) -> FixedMicroBatch:
    """Micro-batches of what `reader` gives for (first sample, count), read ahead in a thread."""
    train, size = settings.train, initial_micro_batch(settings, machine)
    loader = Loader(reader, train.batch, machine)
    if machine.world.size == 1:
        return AutoMicroBatch(loader, size, notice) if train.micro_batch == "auto" else FixedMicroBatch(loader, size)
    if train.micro_batch != "auto" or train.parallel == "fsdp":  # with FSDP a forward pass is a collective
        return FixedMicroBatch(loader, size)
    found = probe(AutoMicroBatch(loader, size, notice), LossModel(model, machine, objective), machine.world)
    model.zero_grad()
    return found


def initial_micro_batch(settings: Settings, machine: Machine) -> int:
    """The micro-batch to begin with: as set, or estimated."""
    wanted, local_batch = settings.train.micro_batch, settings.train.batch // machine.world.size
    if wanted == "auto":
        shards = settings.train.shards(machine.world)
        return estimate(settings.trained_model, local_batch, machine, shards=shards, **activation_options(settings))
    return min(wanted or local_batch, local_batch)


def activation_options(settings: Settings) -> dict[str, bool]:
    """The settings that decide which activations are kept for the backward pass."""
    train = settings.train
    return {"chunked": train.chunked_loss is True, "checkpointed": train.activation_checkpointing}


def can_compile(settings: Settings, machine: Machine) -> bool:
    """Whether torch.compile is both set and possible on this machine."""
    return settings.train.compile is True and bool(find_compiler(machine.device).value)


def check_batch_divisible(batch: int, world: World) -> None:
    if batch % world.size:
        raise UserError(
            f"train.batch = {batch} is not divisible by {world.size} processes",
            f"start {listed_divisors(batch)} processes, or make the batch a multiple of {world.size}",
        )


def check_clipping(train: TrainConfig, machine: Machine) -> None:
    """Refuse to clip after each micro-batch where there is no gradient to clip before the last one."""
    if train.clip_each == "update":
        return
    name, hint = "train.clip_each = micro_batch", "clip once per update: --train.clip_each update"
    if machine.world.size > 1:
        reason = "processes add up their gradients after the last micro-batch only"
        raise UserError(f"{name} is for a single process: {reason}", f"use one process, or {hint}")
    if machine.dtype == "float16":
        raise UserError(
            f"{name} cannot be used with float16, whose gradients are scaled until the last micro-batch",
            f"use --train.dtype float32, or {hint}",
        )


def settings_warnings(settings: Settings, machine: Machine) -> Iterator[str]:
    """Settings that work, but are probably not what the user wants."""
    train, optim = settings.train, settings.optim
    if machine.device == "cpu" and (busy := busy_warning(other_load(), machine.threads)):
        yield busy
    if machine.device == "cpu" and machine.threads * local_ranks() > usable_cores():
        yield (
            f"{counted(machine.threads * local_ranks(), 'thread')} on {counted(usable_cores(), 'core')}: training takes"
            f" longer than with --train.threads {max(1, usable_cores() // local_ranks())}"
        )
    if train.compile and not can_compile(settings, machine):
        yield f"{find_compiler(machine.device).why}: {EAGER_NOTICE}"
    if not machines.has_units(machine.device, machine.dtype):
        better = machines.choose_dtype(machine.device).value
        yield (
            f"this {machine.device} has no native {machine.dtype} support and emulates it slowly:"
            f" use --train.dtype {better}"
        )
    if not reaches_peak(optim, train.steps):
        yield (
            f"the warmup of {counted(optim.warmup_steps, 'step')} does not end within"
            f" train.steps = {train.steps}: the learning rate never reaches its peak"
        )
