"""The arithmetic of a forecast: time from measured costs, and the loss law with its fit."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.config import read_overrides
from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.planning.corpus_stats import CorpusStats, read_corpus_stats
from fledge.planning.forecast import (
    PRIOR,
    LossCurve,
    LossPoint,
    complete_for_forecast,
    effective_data,
    expected_loss,
    fit_curve,
    make_forecast,
    run_seconds,
    scheduled_steps,
)
from fledge.planning.probe import Costs
from fledge.settings.pipeline import resolve

CPU = Machine("cpu", "float32")
COSTS = Costs(
    startup=5.0,
    per_token=0.001,
    per_step=0.5,
    per_eval_token=0.0001,
    per_sampled_token=0.01,
    per_checkpoint=2.0,
    peak_memory=10**9,
)
CORPUS = CorpusStats(vocab_size=65, train_tokens=1_000_000, val_tokens=10_000, bytes_per_token=1.0)
SETTINGS = [
    *("--model.vocab_size", "65", "--train.steps", "1000", "--train.eval_every", "300"),
    *("--train.sample_every", "500", "--train.save_every", "400"),
]


def test_time_is_each_cost_times_its_occurrences() -> None:
    parts = run_seconds(resolve("nanogpt-shakespeare-cpu", read_overrides(SETTINGS)), COSTS, CORPUS)
    assert parts.startup == 5.0
    assert parts.steps == pytest.approx(1000 * (0.5 + 12 * 64 * 0.001))
    assert parts.evaluations == pytest.approx(5 * 10_000 * 0.0001)  # at 0, 300, 600, 900, 1000
    assert parts.samples == pytest.approx(3 * 200 * 0.01)  # at 0, 500, 1000
    assert parts.checkpoints == pytest.approx(6 * 2.0)  # at 300, 400, 600, 800, 900, 1000
    assert parts.total == pytest.approx(5 + parts.steps + parts.evaluations + parts.samples + parts.checkpoints)


def test_disabled_evaluations_and_samples_take_no_time() -> None:
    settings = resolve(
        "nanogpt-shakespeare-cpu", read_overrides(["--train.eval_every", "0", "--train.sample_every", "0"])
    )
    parts = run_seconds(settings, COSTS, CORPUS)
    assert (parts.evaluations, parts.samples) == (0, 0)
    assert parts.checkpoints == 2.0  # of the last step


@pytest.mark.parametrize(
    ("every", "steps", "expected"), [(0, 9, set()), (4, 9, {4, 8, 9}), (20, 9, {9}), (3, 9, {3, 6, 9})]
)
def test_scheduled_steps_include_the_last(every: int, steps: int, expected: set[int]) -> None:
    assert scheduled_steps(every, steps) == expected


def test_numbers_of_a_forecast_are_consistent() -> None:
    settings = resolve("nanogpt-shakespeare-cpu", read_overrides(SETTINGS))
    forecast = make_forecast(settings, CPU, COSTS, CORPUS, PRIOR, [])
    assert forecast.tokens == 1000 * 12 * 64
    assert forecast.tokens_per_second * forecast.step_seconds == pytest.approx(12 * 64)
    assert forecast.seconds == forecast.parts.total
    assert forecast.memory == 10**9
    assert not forecast.corpus_known


def test_expected_loss_is_at_most_that_of_a_uniform_guess() -> None:
    settings = resolve("nanogpt-shakespeare-cpu", read_overrides(["--train.steps", "1"]))
    assert expected_loss(settings, CORPUS, PRIOR) == pytest.approx(4.174, abs=0.001)  # ln 65


def test_epochs_over_a_text_of_unknown_length_are_refused() -> None:
    settings = resolve("scratch-owt10k", read_overrides(["--data.corpus", "https://example.invalid/book.txt"]))
    with pytest.raises(UserError, match=r"train\.epochs"):
        complete_for_forecast(settings, read_corpus_stats(settings), CPU)


# The loss law

counts = st.integers(10**5, 10**9)
sizes = st.floats(1e5, 1e12)


@given(counts, counts, sizes, sizes)
def test_loss_falls_with_parameters_and_with_data(one: int, other: int, less: float, more: float) -> None:
    (small, large), (less, more) = sorted((one, other)), sorted((less, more))
    assert PRIOR.loss(small, less) >= PRIOR.loss(large, less) >= PRIOR.loss(large, more) > PRIOR.floor


def test_prior_passes_through_its_points() -> None:
    assert PRIOR.loss(787_584, 1.54e6) == pytest.approx(1.90, rel=0.02)
    assert PRIOR.loss(125_000_000, 1.17e10) == pytest.approx(0.75, rel=0.02)
    assert PRIOR.loss(124_000_000, 1.3e12) == pytest.approx(0.65, abs=0.02)


def test_fit_to_no_runs_is_the_prior() -> None:
    curve = fit_curve([])
    assert (curve.floor, curve.size, curve.data) == pytest.approx((PRIOR.floor, PRIOR.size, PRIOR.data))


@pytest.mark.parametrize("loss", [0.9, 1.4, 2.2])
def test_fit_to_one_run_meets_it_and_moves_its_neighbors(loss: float) -> None:
    curve = fit_curve([LossPoint(10**6, 1e7, loss)])
    assert curve.loss(10**6, 1e7) == pytest.approx(loss, rel=0.03)
    assert (curve.loss(2 * 10**6, 2e7) < PRIOR.loss(2 * 10**6, 2e7)) == (loss < PRIOR.loss(10**6, 1e7))


def test_fit_to_many_runs_recovers_their_curve() -> None:
    true = LossCurve(floor=0.5, size=7.0, data=9.0)
    points = [LossPoint(n, b, true.loss(n, b)) for n in (10**5, 10**6, 10**7, 10**8) for b in (1e5, 1e7, 1e9)]
    assert fit_curve(points).loss(3 * 10**6, 3e8) == pytest.approx(true.loss(3 * 10**6, 3e8), rel=0.01)


@given(sizes, sizes)
def test_repeated_text_is_worth_less_each_time(unique: float, seen: float) -> None:
    worth = effective_data(seen, unique)
    assert worth <= seen * (1 + 1e-9)
    assert worth <= 16 * unique * (1 + 1e-9)
    assert effective_data(2 * seen, unique) >= worth
    if seen <= unique:
        assert worth == seen


def test_second_pass_is_nearly_as_good_as_new_text() -> None:
    assert effective_data(2.0, 1.0) == pytest.approx(1 + 15 * (1 - math.exp(-1 / 15)))
    assert 1.9 < effective_data(2.0, 1.0) < 2
