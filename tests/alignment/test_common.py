"""Held-out evaluation: sums over batches and ranks, and when it is due."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from fledge.alignment.common import HeldOut, up_to_question
from fledge.batches.loader import Batch
from fledge.core.device import Machine
from fledge.core.distributed import SINGLE_PROCESS, World
from fledge.datasets.examples import Example
from fledge.model.gpt import GPT
from fledge.training.config import TrainConfig
from fledge.training.objective import LossSum
from tiny_chat import assistant, tiny_model, user

TRAIN = TrainConfig(steps=10, eval_every=4)


class SumOfIds:
    """The loss of a batch is the sum of its ids, per row."""

    def count(self, batch: Batch) -> Tensor:
        return torch.tensor(len(batch.inputs))

    def __call__(self, model: GPT, batch: Batch) -> LossSum:
        assert not model.training
        assert not torch.is_grad_enabled()
        total = batch.inputs.sum().float()
        return LossSum(total, self.count(batch), {"duck/weight": (2 * total, self.count(batch))})


@dataclass(frozen=True)
class OneOf(World):
    """One of several ranks; keeps what it would add to the others."""

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        ADDED.append(values)
        return values


ADDED: list[Tensor] = []


def held_out(world: World = SINGLE_PROCESS, batches: int = 3) -> HeldOut:
    rows = [torch.full((2 + n, 1), n + 1) for n in range(batches)]
    data = [Batch(ids, ids) for ids in rows]
    return HeldOut(tiny_model(), SumOfIds(), data, Machine("cpu", "float32", world), TRAIN, iter, "3 ducks")


def test_mean_of_all_batches() -> None:
    evaluations = held_out()
    found = evaluations.evaluate()
    assert found.loss == pytest.approx((2 * 1 + 3 * 2 + 4 * 3) / 9)
    assert found.metrics == pytest.approx({"val/loss": found.loss, "val/weight": 2 * found.loss})
    assert evaluations.model.training


@pytest.mark.parametrize("size", [2, 3, 5])
def test_ranks_count_every_batch_once(size: int) -> None:
    ADDED.clear()
    for rank in range(size):
        held_out(replace(OneOf(), rank=rank, size=size)).evaluate()
    totals, counts = torch.stack(ADDED).sum(0)[0]
    assert float(totals / counts) == pytest.approx(held_out().evaluate().loss)
    assert int(counts) == 9


def test_evaluations_are_regular() -> None:
    assert (held_out().every, held_out(batches=0).every) == (4, 0)
    assert replace(held_out(), train=replace(TRAIN, eval_every=0)).every == 0
    assert [*held_out().notices()] == ["val: 3 ducks, held out; evaluated every 4 steps"]


def test_question_is_what_comes_before_the_answers() -> None:
    assert up_to_question(Example((user("a"), assistant("b"), user("c")))) == [user("a"), assistant("b"), user("c")]
    assert up_to_question(Example((user("a"), assistant("b")))) == [user("a")]
