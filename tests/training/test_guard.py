"""What is an accident, what is not, and what is remembered of it."""

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
from fledge.training.divergence import ENOUGH, MAX_SKIPPED, STUCK_STEPS, USUAL, Diverged, DivergenceMonitor, NotLearning
from fledge.training.step import StepResult


class Watched:
    """A guard, and what it reported."""

    def __init__(self, leap: float = 2.0) -> None:
        self.said: list[int] = []
        self.guard = DivergenceMonitor(leap, lambda result, _: self.said.append(result.step), peak=0.1)

    def see(self, *losses: float, norm: float = 1.0, lr: float = 0.1, tokens: int = 8) -> StepResult:
        for loss in losses:
            self.step = getattr(self, "step", 0) + 1
            result = StepResult(self.step, loss, lr, norm, tokens, 0.1)
            self.guard.look(result)
        return result


def losses(count: int, around: float = 1.0) -> list[float]:
    """Ordinary ones: no two in a row are the same."""
    return [around + step % 2 / 100 for step in range(count)]


@given(seen=st.lists(st.floats(1.0, 2.9), max_size=80, unique=True))
def test_ordinary_losses_are_no_accident(seen: list[float]) -> None:
    watched = Watched()
    if seen:
        watched.see(*seen)
    assert watched.said == []


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_no_number_is_reported_and_the_third_in_a_row_is_too_many(loss: float, norm: float) -> None:
    watched = Watched()
    watched.see(*[loss] * (MAX_SKIPPED - 1), norm=norm)
    with pytest.raises(Diverged):
        watched.see(loss, norm=norm)
    assert watched.said == [1, 2, 3]


def test_a_good_step_between_begins_the_count_anew() -> None:
    watched = Watched()
    for _ in range(5):
        watched.see(math.nan, math.nan, 1.0)
    assert len(watched.said) == 10


def test_a_leap_is_an_accident_once_it_is_known_what_is_usual() -> None:
    early = Watched()
    early.see(*losses(ENOUGH - 1), 9.0)
    assert early.said == []
    late = Watched()
    late.see(*losses(ENOUGH), 2.9)
    with pytest.raises(Diverged, match=r"leapt from 1\.01 to 3\.50 at step 12"):
        late.see(3.5)
    assert late.said == [ENOUGH + 2]


def test_without_a_limit_no_leap_is_one() -> None:
    watched = Watched(leap=0.0)
    watched.see(*losses(ENOUGH), 1e9)
    assert watched.said == []


def test_gradients_of_zero_are_not_learning() -> None:
    watched = Watched()
    watched.see(*losses(STUCK_STEPS - 1), norm=0.0)
    watched.see(1.5, norm=0.1)
    watched.see(*losses(STUCK_STEPS - 1), norm=0.0)
    with pytest.raises(NotLearning, match="the gradient was exactly zero in 5 steps") as caught:
        watched.see(1.2, norm=0.0)
    assert "--train.compile false" in caught.value.hint
    assert watched.said == [2 * STUCK_STEPS]


def test_the_same_loss_to_the_bit_is_not_learning() -> None:
    watched = Watched()
    with pytest.raises(NotLearning, match=r"the loss was 1\.5 in 6 steps"):
        watched.see(1.0, *[1.5] * (STUCK_STEPS + 1))
    watched = Watched()
    watched.guard.moving = False  # the loss of a policy gradient may well stay
    watched.see(*[1.5] * 40)


def test_a_loss_of_zero_has_learned_everything() -> None:
    watched = Watched()
    watched.see(*[0.0] * 20, norm=0.0)
    assert watched.said == []


@pytest.mark.parametrize("still", [{"lr": 0.0}, {"lr": 1e-5}, {"tokens": 0}])
def test_without_a_rate_or_tokens_nothing_has_to_move(still: dict[str, Any]) -> None:
    watched = Watched()
    watched.see(*[1.5] * 20, norm=0.0, **still)
    for _ in range(20):
        watched.guard.look_at_weights(watched.see(*losses(1), **{**still, "lr": 0.0}), 7)
    assert watched.said == []


def test_weights_that_no_update_changes_are_not_learning() -> None:
    watched = Watched()
    for seen in (1, 2, 2, 3, 3, 3):
        watched.guard.look_at_weights(watched.see(*losses(2)), seen)
    result = watched.see(*losses(2))
    with pytest.raises(NotLearning, match="the weights did not change in 6 updates"):
        watched.guard.look_at_weights(result, 3)


@given(bits=st.integers(0, 31), place=st.integers(0, 10**6))
def test_the_checksum_of_weights_changes_with_any_bit(bits: int, place: int) -> None:
    model = build(ModelConfig(n_layer=1, n_head=1, n_embd=4, context=4, vocab_size=5), 0)
    before = checksum(model, SINGLE_PROCESS)
    weight = list(model.parameters())[place % 11].detach().view(torch.int32).flatten()
    weight[place % len(weight)] ^= torch.tensor(1 << bits if bits < 31 else -(1 << 31), dtype=torch.int32)
    assert checksum(model, SINGLE_PROCESS) != before


@given(losses=st.lists(st.floats(0, 3) | st.just(math.nan), max_size=2 * USUAL, unique=True), cut=st.integers(0, 100))
def test_one_that_remembers_decides_as_one_that_was_never_interrupted(losses: list[float], cut: int) -> None:
    def decides(guard: DivergenceMonitor, losses: list[float], first: int) -> list[int]:
        derailed = []
        for step, loss in enumerate(losses, first):
            try:
                guard.look(StepResult(step, loss, 0.1, 1.0, 8, 0.1))
            except Diverged:
                derailed.append(step)
        return derailed

    whole, before, after = (DivergenceMonitor(0.5, lambda *_: None) for _ in range(3))
    cut = min(cut, len(losses))
    found = decides(before, losses[:cut], 0)
    after.load_state_dict(before.state_dict())
    assert decides(whole, losses, 0) == found + decides(after, losses[cut:], cut)
