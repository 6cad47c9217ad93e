"""fp16: gradients that its digits cannot hold are computed again at another scale, and no step is lost."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from fledge.batches.loader import Batch
from fledge.training.loss_scaler import GROWTH_INTERVAL, MAX_SCALE, LossScaler
from fledge.training.objective import LossSum
from fledge.training.step import TrainStep

STEPS = 30
Build = Callable[..., TrainStep]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_fp16_and_bf16_learn_like_fp32(optimizer: str, stepper: Build) -> None:
    half, full = stepper("float16", optimizer), stepper("float32", optimizer)
    ours, wanted = ([each(step).loss for step in range(STEPS)] for each in (half, full))
    assert ours == pytest.approx(wanted, rel=0.05)
    assert ours[-1] < 0.6 * ours[0]
    assert all(p.isfinite().all() for p in half.model.parameters())


def test_too_large_scale_is_halved_without_changing_the_update(stepper: Build) -> None:
    """A power of two changes no digit, as long as none is lost."""
    bold, healthy = stepper("float16"), stepper("float16")
    assert isinstance(bold.loss_scaler, LossScaler)
    assert isinstance(healthy.loss_scaler, LossScaler)
    bold.loss_scaler.scale, healthy.loss_scaler.scale = 2.0**40, 2.0**12
    bold(0)
    assert 2.0**12 <= bold.loss_scaler.scale < 2.0**40
    healthy.loss_scaler.scale = bold.loss_scaler.scale
    healthy(0)
    for a, b in zip(bold.model.parameters(), healthy.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_small_gradients_are_lost_without_a_scale(stepper: Build) -> None:
    def faint(batch: Batch) -> LossSum:
        found = loss(batch)
        return replace(found, total=found.total * 1e-7)

    norms = {}
    for scale in (1.0, 2.0**16):
        one = stepper("float16")
        loss = one.loss
        one = replace(one, loss=faint, loss_scaler=LossScaler(scale), grad_clip=0.0)
        norms[scale] = one(0).grad_norm
    assert norms[2.0**16] > 1.05 * norms[1.0]


def test_scale_grows_after_good_steps_up_to_the_maximum() -> None:
    scaler = LossScaler(MAX_SCALE / 2)
    for _ in range(3 * GROWTH_INTERVAL):
        assert scaler.accept(torch.tensor(1.0))
    assert scaler.scale == MAX_SCALE


def test_nan_at_every_scale_is_accepted_at_last() -> None:
    scaler, looks = LossScaler(), 1
    while not scaler.accept(torch.tensor(math.nan)):
        looks += 1
    assert (scaler.scale, looks) == (1.0, 17)


def test_state_dict_round_trip() -> None:
    first, second = LossScaler(512.0, 77), LossScaler()
    second.load_state_dict(first.state_dict())
    assert second == first
    second.load_state_dict({})  # from a run in bf16
    assert second == LossScaler(512.0, 0)
