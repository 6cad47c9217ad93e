"""Learning-rate schedules: bounds, shape, ends, and nanoGPT's formula."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.optim.config import OptimConfig
from fledge.optim.schedule import SCHEDULES, lr_multiplier


@st.composite
def runs(draw: st.DrawFn, schedule: str | None = None) -> tuple[OptimConfig, int]:
    lr = draw(st.floats(1e-6, 1))
    config = OptimConfig(
        lr=lr,
        min_lr=lr * draw(st.floats(0, 1)),
        warmup_steps=draw(st.integers(0, 60)),
        schedule=schedule or draw(st.sampled_from(list(SCHEDULES))),
        cooldown=draw(st.floats(0, 1)),
    )
    return config, draw(st.integers(1, 120))


@given(runs())
def test_multiplier_is_between_zero_and_one(run: tuple[OptimConfig, int]) -> None:
    config, steps = run
    for step in range(steps):
        assert 0 < lr_multiplier(config, step, steps) + (config.min_lr == 0) <= 2
        assert 0 <= lr_multiplier(config, step, steps) <= 1 + 1e-12


@given(runs())
def test_multiplier_rises_in_warmup_only(run: tuple[OptimConfig, int]) -> None:
    config, steps = run
    way = [lr_multiplier(config, step, steps) for step in range(steps)]
    warm, rest = way[: config.warmup_steps], way[config.warmup_steps :]
    assert all(a < b for a, b in itertools.pairwise(warm))
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(rest))
    if rest:
        assert rest[0] == pytest.approx(1.0) or config.schedule == "trapezoid"
        assert min(rest) >= config.min_lr / config.lr - 1e-12


@given(runs("constant"))
def test_constant_stays_at_the_peak(run: tuple[OptimConfig, int]) -> None:
    config, steps = run
    assert all(lr_multiplier(config, step, steps) == 1 for step in range(config.warmup_steps, steps))


@given(runs())
def test_multiplier_after_the_end_stays_at_the_end(run: tuple[OptimConfig, int]) -> None:
    config, steps = run
    after = max(steps, config.warmup_steps) + 5
    end = 1.0 if config.schedule == "constant" else config.min_lr / config.lr
    assert lr_multiplier(config, after, steps) == pytest.approx(end)


def test_trapezoid_is_piecewise_linear() -> None:
    config = OptimConfig(lr=1.0, min_lr=0.0, warmup_steps=3, schedule="trapezoid", cooldown=0.5)
    way = [lr_multiplier(config, step, 20) for step in range(21)]
    assert way[:4] == [0.25, 0.5, 0.75, 1.0]
    assert way[3:11] == [1.0] * 8
    assert way[10:] == pytest.approx([1 - i / 10 for i in range(11)])


def test_longer_trapezoid_is_equal_until_the_cooldown() -> None:
    config = OptimConfig(lr=1.0, min_lr=0.1, warmup_steps=5, schedule="trapezoid", cooldown=0.2)
    short, long = ([lr_multiplier(config, step, steps) for step in range(80)] for steps in (100, 400))
    assert short == long


def nanogpt(it: int, learning_rate: float, min_lr: float, warmup_iters: int, lr_decay_iters: int) -> float:
    """get_lr of nanoGPT's train.py, verbatim."""
    if it < warmup_iters:
        return learning_rate * (it + 1) / (warmup_iters + 1)
    if it > lr_decay_iters:
        return min_lr
    decay_ratio = (it - warmup_iters) / (lr_decay_iters - warmup_iters)
    coeff = 0.5 * (1.0 + math.cos(math.pi * decay_ratio))
    return min_lr + coeff * (learning_rate - min_lr)


@given(
    lr=st.floats(1e-6, 1),
    share=st.floats(0, 1),
    warmup=st.integers(0, 50),
    rest=st.integers(1, 100),
    step=st.integers(0, 200),
)
def test_cosine_equals_nanogpt(lr: float, share: float, warmup: int, rest: int, step: int) -> None:
    config = OptimConfig(lr=lr, min_lr=lr * share, warmup_steps=warmup)
    ours = lr * lr_multiplier(config, step, warmup + rest)
    assert ours == pytest.approx(nanogpt(step, lr, lr * share, warmup, warmup + rest), rel=1e-9, abs=1e-15)
