"""The arithmetic of a forecast: time from measured costs."""

import pytest

from fledge.core.config import read_overrides
from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.planning.corpus_stats import CorpusStats, read_corpus_stats
from fledge.planning.forecast import (
    complete_for_forecast,
    make_forecast,
    run_seconds,
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
    *("--train.save_seconds", "0", "--train.history", "0"),
]


def test_time_is_each_cost_times_its_occurrences() -> None:
    parts = run_seconds(resolve("nanogpt-shakespeare-cpu", read_overrides(SETTINGS)), COSTS, CORPUS)
    assert parts.startup == 5.0
    assert parts.steps == pytest.approx(1000 * (0.5 + 12 * 64 * 0.001))
    assert parts.evaluations == pytest.approx(5 * 10_000 * 0.0001)  # at 0, 300, 600, 900, 1000
    assert parts.samples == pytest.approx(3 * 200 * 0.01)  # at 0, 500, 1000
    assert parts.checkpoints == pytest.approx(6 * 2.0)  # at 300, 400, 600, 800, 900, 1000
    assert parts.total == pytest.approx(5 + parts.steps + parts.evaluations + parts.samples + parts.checkpoints)


@pytest.mark.parametrize(("sample", "whole"), [("9999", 2 * 10_000), ("10000", 0)])
def test_sampled_run_plans_the_whole_split_for_the_last_and_the_best_weights(sample: str, whole: int) -> None:
    overrides = read_overrides([*SETTINGS, "--train.eval_tokens", sample])
    parts = run_seconds(resolve("nanogpt-shakespeare-cpu", overrides), COSTS, CORPUS)
    assert parts.evaluations == pytest.approx((5 * int(sample) + whole) * 0.0001)


def test_disabled_evaluations_and_samples_take_no_time() -> None:
    settings = resolve(
        "nanogpt-shakespeare-cpu",
        read_overrides(["--train.eval_every", "0", "--train.sample_every", "0", *SETTINGS[-4:]]),
    )
    parts = run_seconds(settings, COSTS, CORPUS)
    assert (parts.evaluations, parts.samples) == (0, 0)
    assert parts.checkpoints == 2.0  # of the last step


def test_numbers_of_a_forecast_are_consistent() -> None:
    settings = resolve("nanogpt-shakespeare-cpu", read_overrides(SETTINGS))
    forecast = make_forecast(settings, CPU, COSTS, CORPUS, {})
    assert forecast.tokens == 1000 * 12 * 64
    assert forecast.tokens_per_second * forecast.step_seconds == pytest.approx(12 * 64)
    assert forecast.seconds == forecast.parts.total
    assert forecast.memory == 10**9
    assert not forecast.corpus_known
    assert forecast.loss is None  # nothing is known of this text


def test_epochs_over_a_text_of_unknown_length_are_refused() -> None:
    settings = resolve("scratch-owt10k", read_overrides(["--data.corpus", "https://example.invalid/book.txt"]))
    with pytest.raises(UserError, match=r"train\.epochs"):
        complete_for_forecast(settings, read_corpus_stats(settings), CPU)
