"""fp16: gradients that its digits cannot hold are computed again at another scale, and no step is lost."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fledge.train.scaling import LARGEST, PATIENCE, Scaler
from fledge.train.step import Stepper

STEPS = 30
Build = Callable[..., Stepper]


@pytest.mark.parametrize("rule", ["adamw", "muon"])
def test_half_precision_learns_what_full_precision_learns(rule: str, stepper: Build) -> None:
    half, full = stepper("float16", rule), stepper("float32", rule)
    ours, wanted = ([each(step).loss for step in range(STEPS)] for each in (half, full))
    assert ours == pytest.approx(wanted, rel=0.05)
    assert ours[-1] < 0.6 * ours[0]
    assert all(p.isfinite().all() for p in half.model.parameters())


def test_a_scale_that_is_too_large_is_halved_until_it_fits_and_the_update_is_the_same(stepper: Build) -> None:
    """A power of two changes no digit, as long as none is lost."""
    bold, calm = stepper("float16"), stepper("float16")
    assert isinstance(bold.scaling, Scaler)
    assert isinstance(calm.scaling, Scaler)
    bold.scaling.scale, calm.scaling.scale = 2.0**40, 2.0**12
    bold(0)
    assert 2.0**12 <= bold.scaling.scale < 2.0**40
    calm.scaling.scale = bold.scaling.scale
    calm(0)
    for a, b in zip(bold.model.parameters(), calm.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_without_a_scale_small_gradients_would_be_lost(stepper: Build) -> None:
    def faint(inputs: Tensor, targets: Tensor) -> Tensor:
        return loss(inputs, targets) * 1e-7

    norms = {}
    for scale in (1.0, 2.0**16):
        one = stepper("float16")
        loss = one.loss
        one = replace(one, loss=faint, scaling=Scaler(scale), clip=0.0)
        norms[scale] = one(0).grad_norm
    assert norms[2.0**16] > 1.05 * norms[1.0]


def test_a_larger_scale_is_tried_after_many_good_steps_and_never_an_endless_one() -> None:
    scaler = Scaler(LARGEST / 2)
    for _ in range(3 * PATIENCE):
        assert scaler.fits(torch.tensor(1.0))
    assert scaler.scale == LARGEST


def test_what_is_no_number_at_any_scale_is_let_through_for_the_guard_to_see() -> None:
    scaler, looks = Scaler(), 1
    while not scaler.fits(torch.tensor(math.nan)):
        looks += 1
    assert (scaler.scale, looks) == (1.0, 17)


def test_it_goes_on_from_what_it_remembered() -> None:
    first, second = Scaler(512.0, 77), Scaler()
    second.remember(first.memory())
    assert second == first
    second.remember(None)  # a checkpoint of a run that had none
    assert second == first
