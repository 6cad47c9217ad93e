"""A second objective trains with accumulation, compile and DDP, and equals a step written by hand."""

import socket
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from fledge.batches.loader import Batch, Loader
from fledge.core.device import Machine, find_compiler
from fledge.core.distributed import World, init_distributed
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.optim.config import OptimConfig
from fledge.optim.groups import build_optimizer
from fledge.optim.schedule import lr_multiplier
from fledge.training.micro_batch import FixedMicroBatch
from fledge.training.objective import LossSum, NextTokenObjective, Objective
from fledge.training.parallel import wrap
from fledge.training.step import StepResult, TrainStep
from forked import start_function

MODEL = ModelConfig(n_layer=2, n_head=2, n_embd=16, context=8, vocab_size=13)
OPTIM = OptimConfig(lr=0.02, min_lr=0.002, warmup_steps=2)
STEPS, BATCH = 3, 8


class WeightedCrossEntropy:
    def count(self, batch: Batch) -> torch.Tensor:
        return batch.extra["weights"].sum()

    def __call__(self, model: GPT, batch: Batch) -> LossSum:
        nats = F.cross_entropy(model(batch.inputs).mT, batch.targets, reduction="none")
        likely = (nats < 2.5).float().sum()
        metrics = {"train/likely": (likely, torch.full_like(likely, nats.numel()))}
        return LossSum((nats * batch.extra["weights"]).sum(), self.count(batch), metrics)


def read(first: int, count: int) -> Batch:
    """Samples that depend on nothing but their numbers."""
    rows = [torch.Generator().manual_seed(number) for number in range(first, first + count)]
    ids = torch.stack([torch.randint(13, (9,), generator=row) for row in rows])
    weights = torch.stack([torch.rand(8, generator=row) for row in rows])
    return Batch(ids[:, :-1], ids[:, 1:], {"weights": weights})


def train(world: World, micro_batch: int, compile: bool, objective: Objective) -> tuple[list[StepResult], TrainStep]:
    machine, model = Machine("cpu", "float32", world), build(MODEL, 1)
    loss = wrap(model, machine, objective, compile=compile)
    step = TrainStep(
        model=model,
        loss=loss,
        optimizer=build_optimizer(model, OPTIM, torch.float32),
        batches=FixedMicroBatch(Loader(read, BATCH, machine), micro_batch),
        multiplier=partial(lr_multiplier, OPTIM, steps=STEPS),
        initial_lr=OPTIM.lr,
        grad_clip=0.5,
        objective=objective,
        world=world,
        set_gradient_sync=loss.set_gradient_sync,
    )
    return [step(number) for number in range(STEPS)], step


def by_hand() -> tuple[list[tuple[float, float]], GPT]:
    """Loss and metric of each step of a plain loop without any of our training code."""
    model = build(MODEL, 1)
    optimizer = build_optimizer(model, OPTIM, torch.float32)
    found = []
    for step in range(STEPS):
        batch = read(step * BATCH, BATCH)
        nats = F.cross_entropy(model(batch.inputs).mT, batch.targets, reduction="none")
        loss = (nats * batch.extra["weights"]).sum() / batch.extra["weights"].sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = OPTIM.lr * lr_multiplier(OPTIM, step, STEPS)
        optimizer.step()
        optimizer.zero_grad()
        found.append((float(loss.detach()), float((nats < 2.5).float().mean())))
    return found, model


def compare(results: list[StepResult], model: GPT) -> None:
    expected, reference = by_hand()
    for result, (loss, likely) in zip(results, expected, strict=True):
        assert result.loss == pytest.approx(loss, rel=1e-5)
        assert result.objective_metrics == {"train/likely": pytest.approx(likely)}
        assert result.tokens == BATCH * 8
    for (name, one), two in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("micro_batch", [1, 4, 8])
def test_weighted_objective_with_accumulation(micro_batch: int) -> None:
    results, step = train(World(), micro_batch, False, WeightedCrossEntropy())
    compare(results, step.model)


@pytest.mark.skipif(not find_compiler("cpu").value, reason="torch.compile needs a C++ compiler")
def test_weighted_objective_compiled() -> None:
    results, step = train(World(), 4, True, WeightedCrossEntropy())
    assert step.loss.in_use  # type: ignore[attr-defined]
    compare(results, step.model)


def test_weighted_objective_on_two_ddp_ranks() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    ranks = [start_function(__file__, "run_rank", {**common, "RANK": rank, "LOCAL_RANK": rank}) for rank in "01"]
    for process in ranks:
        process.join(300)
    assert [process.exitcode for process in ranks] == [0, 0]


def run_rank() -> None:
    with init_distributed() as world:
        results, step = train(world, 2, False, WeightedCrossEntropy())
        compare(results, step.model)


def test_next_token_objective_has_no_metrics() -> None:
    [result, *_], _ = train(World(), 8, False, NextTokenObjective())
    assert result.objective_metrics == {}
    assert result.tokens == BATCH * 8
