"""What the monitor takes for divergence or lack of progress, and what it does not."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.distributed import SINGLE_PROCESS
from fledge.model.config import ModelConfig
from fledge.model.init import build
from fledge.training.anomaly import checksum
from fledge.training.divergence import (
    MAX_SKIPPED,
    MIN_LOSSES,
    STUCK_STEPS,
    WINDOW,
    Diverged,
    DivergenceMonitor,
    NotLearning,
)
from fledge.training.step import StepResult


class Watched:
    """A monitor, and the steps that it reported."""

    def __init__(self, loss_spike: float = 2.0) -> None:
        self.reported: list[int] = []
        self.monitor = DivergenceMonitor(loss_spike, lambda result, _: self.reported.append(result.step), 0.1)

    def see(self, *losses: float, norm: float = 1.0, lr: float = 0.1, tokens: int = 8) -> StepResult:
        for loss in losses:
            self.step = getattr(self, "step", 0) + 1
            result = StepResult(self.step, loss, lr, norm, tokens, 0.1)
            self.monitor.check(result)
        return result


def losses(count: int, around: float = 1.0) -> list[float]:
    """No two in a row are equal."""
    return [around + step % 2 / 100 for step in range(count)]


@given(seen=st.lists(st.floats(1.0, 2.9), max_size=80, unique=True))
def test_usual_losses_are_not_reported(seen: list[float]) -> None:
    watched = Watched()
    if seen:
        watched.see(*seen)
    assert watched.reported == []


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_third_non_finite_step_in_a_row_is_divergence(loss: float, norm: float) -> None:
    watched = Watched()
    watched.see(*[loss] * (MAX_SKIPPED - 1), norm=norm)
    with pytest.raises(Diverged):
        watched.see(loss, norm=norm)
    assert watched.reported == [1, 2, 3]


def test_finite_step_resets_the_count() -> None:
    watched = Watched()
    for _ in range(5):
        watched.see(math.nan, math.nan, 1.0)
    assert len(watched.reported) == 10


def test_loss_spike_is_divergence_after_enough_losses() -> None:
    early = Watched()
    early.see(*losses(MIN_LOSSES - 1), 9.0)
    assert early.reported == []
    late = Watched()
    late.see(*losses(MIN_LOSSES), 2.9)
    with pytest.raises(Diverged, match=r"jumped from 1\.01 to 3\.50 at step 12"):
        late.see(3.5)
    assert late.reported == [MIN_LOSSES + 2]


def test_no_limit_on_loss_spikes() -> None:
    watched = Watched(loss_spike=0.0)
    watched.see(*losses(MIN_LOSSES), 1e9)
    assert watched.reported == []


def test_zero_gradients_are_not_learning() -> None:
    watched = Watched()
    watched.see(*losses(STUCK_STEPS - 1), norm=0.0)
    watched.see(1.5, norm=0.1)
    watched.see(*losses(STUCK_STEPS - 1), norm=0.0)
    with pytest.raises(NotLearning, match="the gradient was exactly zero in 5 steps") as caught:
        watched.see(1.2, norm=0.0)
    assert "--train.compile false" in caught.value.hint
    assert watched.reported == [2 * STUCK_STEPS]


def test_identical_losses_are_not_learning() -> None:
    watched = Watched()
    with pytest.raises(NotLearning, match=r"the loss was exactly 1\.5 in 6 steps"):
        watched.see(1.0, *[1.5] * (STUCK_STEPS + 1))


def test_loss_of_zero_is_allowed() -> None:
    watched = Watched()
    watched.see(*[0.0] * 20, norm=0.0)
    assert watched.reported == []


@pytest.mark.parametrize("still", [{"lr": 0.0}, {"lr": 1e-5}, {"tokens": 0}])
def test_no_progress_needed_without_lr_or_tokens(still: dict[str, Any]) -> None:
    watched = Watched()
    watched.see(*[1.5] * 20, norm=0.0, **still)
    for _ in range(20):
        watched.monitor.check_weights(watched.see(*losses(1), **{**still, "lr": 0.0}), 7)
    assert watched.reported == []


def test_unchanged_weights_are_not_learning() -> None:
    watched = Watched()
    for seen in (1, 2, 2, 3, 3, 3):
        watched.monitor.check_weights(watched.see(*losses(2)), seen)
    result = watched.see(*losses(2))
    with pytest.raises(NotLearning, match="the weights did not change in 6 updates"):
        watched.monitor.check_weights(result, 3)


@given(bits=st.integers(0, 31), place=st.integers(0, 10**6))
def test_checksum_changes_with_any_bit(bits: int, place: int) -> None:
    model = build(ModelConfig(n_layer=1, n_head=1, n_embd=4, context=4, vocab_size=5), 0)
    before = checksum(model, SINGLE_PROCESS)
    weight = list(model.parameters())[place % 11].detach().view(torch.int32).flatten()
    weight[place % len(weight)] ^= torch.tensor(1 << bits if bits < 31 else -(1 << 31), dtype=torch.int32)
    assert checksum(model, SINGLE_PROCESS) != before


@given(losses=st.lists(st.floats(0, 3) | st.just(math.nan), max_size=2 * WINDOW, unique=True), cut=st.integers(0, 100))
def test_restored_monitor_decides_like_an_uninterrupted_one(losses: list[float], cut: int) -> None:
    def decides(monitor: DivergenceMonitor, losses: list[float], first: int) -> list[int]:
        diverged = []
        for step, loss in enumerate(losses, first):
            try:
                monitor.check(StepResult(step, loss, 0.1, 1.0, 8, 0.1))
            except Diverged:
                diverged.append(step)
        return diverged

    whole, before, after = (DivergenceMonitor(0.5, lambda *_: None) for _ in range(3))
    cut = min(cut, len(losses))
    found = decides(before, losses[:cut], 0)
    after.load_state_dict(before.state_dict())
    assert decides(whole, losses, 0) == found + decides(after, losses[cut:], cut)
