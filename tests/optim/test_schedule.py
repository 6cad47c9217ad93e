"""Learning-rate schedules: bounds, shape, ends; nanoGPT's formula, torch's schedulers, published rates."""

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from fledge.optim.config import OptimConfig
from fledge.optim.schedule import SCHEDULES, WARMUPS, lr_multiplier, reaches_peak


@st.composite
def runs(draw: st.DrawFn, schedule: str | None = None) -> tuple[OptimConfig, int]:
    lr = draw(st.floats(1e-6, 1))
    config = OptimConfig(
        lr=lr,
        min_lr=lr * draw(st.floats(0, 1)),
        warmup_steps=draw(st.integers(0, 60)),
        warmup=draw(st.sampled_from(list(WARMUPS))),  # type: ignore[arg-type]
        schedule=schedule or draw(st.sampled_from(list(SCHEDULES))),  # type: ignore[arg-type]
        steps_per_epoch=draw(st.floats(0.5, 50)),
        cooldown=draw(st.floats(0, 1)),
    )
    return config, draw(st.integers(1, 120))


@given(runs())
def test_multiplier_is_between_zero_and_one(run: tuple[OptimConfig, int]) -> None:
    config, steps = run
    for step in range(steps):
        starts_at_zero = step == 0 and config.warmup == "from_zero"
        assert 0 < lr_multiplier(config, step, steps) + (config.min_lr == 0) + starts_at_zero <= 3
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


@given(runs().filter(lambda run: run[0].schedule != "cyclic_cosine"))
def test_multiplier_after_the_end_stays_at_the_end(run: tuple[OptimConfig, int]) -> None:
    config, steps = run
    after = max(steps, config.warmup_steps) + 60  # in a later epoch, whose rate holds until its end
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


def rates(config: OptimConfig, count: int, steps: int = 10**9) -> list[float]:
    return [config.lr * lr_multiplier(config, step, steps) for step in range(count)]


def scheduled(scheduler: type[LRScheduler], lr: float, count: int, every: int = 1, **options: Any) -> list[float]:
    """The rates of `count` updates with a scheduler of torch that is stepped after every `every` of them."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    found, steps = [], scheduler(optimizer, **options)
    for update in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (update + 1) % every == 0:
            steps.step()
    return found


def test_epoch_cosine_equals_a_scheduler_stepped_per_epoch() -> None:
    """As SmallGPT trains: 15 epochs, down to 0."""
    config = OptimConfig(lr=3e-4, min_lr=0.0, warmup_steps=0, schedule="epoch_cosine", steps_per_epoch=7.0)
    assert rates(config, 105, 105) == pytest.approx(
        scheduled(CosineAnnealingLR, 3e-4, 105, every=7, T_max=15), rel=1e-9, abs=1e-16
    )
    longer = replace(config, decay_steps=105)  # the end of the run does not matter
    assert rates(longer, 105) == rates(config, 105, 105)


@given(windows=st.integers(1, 400), batch=st.integers(1, 40), epochs=st.integers(1, 5))
def test_epoch_cosine_changes_with_the_first_window_of_an_epoch(windows: int, batch: int, epochs: int) -> None:
    steps = -(-epochs * windows // batch)
    config = OptimConfig(warmup_steps=0, min_lr=0, schedule="epoch_cosine", steps_per_epoch=windows / batch)
    by_epoch: dict[int, set[float]] = {}
    for step, rate in enumerate(rates(config, steps, steps)):
        by_epoch.setdefault(step * batch // windows, set()).add(rate)
    assert all(len(found) == 1 for found in by_epoch.values())
    assert by_epoch[0] == {config.lr}


class WarmUpThenCosine(SequentialLR):
    """toyGPT's schedule: LinearLR from lr · 1e-8, then CosineAnnealingLR down to a tenth."""

    def __init__(self, optimizer: torch.optim.Optimizer, warmup: int, decay: int, eta_min: float) -> None:
        parts = [
            LinearLR(optimizer, start_factor=1e-8, total_iters=warmup),
            CosineAnnealingLR(optimizer, T_max=decay, eta_min=eta_min),
        ]
        super().__init__(optimizer, parts, milestones=[warmup])


def test_from_zero_and_decay_steps_equal_torchs_warmup_and_cosine() -> None:
    config = OptimConfig(lr=2.5e-4, min_lr=2.5e-5, warmup_steps=20, warmup="from_zero", decay_steps=320)
    expected = scheduled(WarmUpThenCosine, 2.5e-4, 321, warmup=20, decay=300, eta_min=2.5e-5)
    assert rates(config, 321) == pytest.approx(expected, rel=1e-8, abs=2.5e-4 * 1.1e-8)  # theirs begins at lr · 1e-8


def test_cyclic_cosine_rises_again_as_torchs_does() -> None:
    """toyGPT's schedule at the commit of its README, at a twentieth of its length: T_max = 200 after 100."""
    config = OptimConfig(
        lr=2.5e-4, min_lr=2.5e-5, warmup_steps=100, warmup="from_zero", decay_steps=300, schedule="cyclic_cosine"
    )
    expected = scheduled(WarmUpThenCosine, 2.5e-4, 900, warmup=100, decay=200, eta_min=2.5e-5)
    found = rates(config, 900)
    assert found == pytest.approx(expected, rel=1e-7, abs=2.5e-4 * 1.1e-8)
    assert found[500] == pytest.approx(2.5e-4)  # at the peak again, twice T_max after the warmup


# The learning_rate column of SmollGPT's published results/training.csv: row → rate. Row n has the rate that was set
# after update n, so update n + 1 used it; the first update used the peak.
SMOLLGPT = {
    0: 0.0,
    1: 7.667452214451052e-07,
    2: 1.5334904428902103e-06,
    1565: 0.0011999562715615895,
    1566: 0.0011999999613047404,
    7824: 0.0002232946450424177,
    7825: 0.00022316716256315003,
    7826: 0.00011999999999999999,
    33499: 0.00011999999999999999,
}


def test_cut_cosine_with_lag_equals_smollgpts_log() -> None:
    """Its decay takes an epoch, 7,825.285 updates, a fifth of which are warmup: here both are whole numbers."""
    config = OptimConfig(
        lr=1.2e-3,
        min_lr=1.2e-4,
        warmup_steps=1565,
        warmup="from_zero",
        schedule="cut_cosine",
        decay_steps=7825,
        lag=True,
    )
    found = {row: 1.2e-3 * lr_multiplier(config, row + 1, 33_500) for row in SMOLLGPT}
    assert found == pytest.approx(SMOLLGPT, rel=2e-4, abs=1e-12)
    assert lr_multiplier(config, 0, 33_500) == 1
    exact = replace(config, warmup_steps=2_003_273 / 256 / 5, decay_steps=2_003_273 / 256)  # type: ignore[arg-type]
    found = {row: 1.2e-3 * lr_multiplier(exact, row + 1, 33_500) for row in SMOLLGPT}
    assert found == pytest.approx(SMOLLGPT, rel=1e-9)


def test_smol_gpts_warmup_and_cosine() -> None:
    """get_lr(it) of its train.py: lr · it / 750, then half a cosine to 1e-5 at 50,000."""
    config = OptimConfig(lr=5e-3, min_lr=1e-5, warmup_steps=750, warmup="from_zero", decay_steps=50_000)

    def expected(it: int) -> float:
        ratio = (it - 750) / (50_000 - 750)
        return 5e-3 * it / 750 if it < 750 else 1e-5 + 0.5 * (1 + math.cos(math.pi * ratio)) * (5e-3 - 1e-5)

    for it in (0, 1, 749, 750, 751, 25_375, 49_999, 50_000):
        assert 5e-3 * lr_multiplier(config, it, 60_000) == pytest.approx(expected(it), rel=1e-9)
    assert 5e-3 * lr_multiplier(config, 59_999, 60_000) == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("warmup", "expected"),
    [("inner", [0.2, 0.4, 0.6, 0.8]), ("from_zero", [0, 0.25, 0.5, 0.75]), ("to_peak", [0.25, 0.5, 0.75, 1])],
)
def test_kinds_of_warmup(warmup: Any, expected: list[float]) -> None:
    config = OptimConfig(lr=1.0, min_lr=0.0, warmup_steps=4, warmup=warmup, schedule="constant")
    assert [lr_multiplier(config, step, 9) for step in range(6)] == pytest.approx([*expected, 1, 1])
    lagging = replace(config, lag=True)
    assert [lr_multiplier(lagging, step, 9) for step in range(6)] == pytest.approx([1, *expected, 1])


@given(runs("constant"), st.booleans())
def test_reaches_peak(run: tuple[OptimConfig, int], lag: bool) -> None:
    config, steps = replace(run[0], lag=lag), run[1]
    after_the_first = [lr_multiplier(config, step, steps) for step in range(lag, steps)]
    assert reaches_peak(config, steps) == (not config.warmup_steps or max(after_the_first, default=0) == 1)


def test_rising_rate() -> None:
    """GPT from scratch, OpenWebText: from 5e-4 to a "minimum" of 6e-4."""
    config = OptimConfig(lr=5e-4, min_lr=6e-4, allow_rising=True, warmup_steps=0)
    way = rates(config, 11, 10)
    assert way[0] == pytest.approx(5e-4)
    assert way[10] == pytest.approx(6e-4)
    assert way == sorted(way)
