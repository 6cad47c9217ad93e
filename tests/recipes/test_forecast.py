"""The arithmetic of a plan, and what it knows of a text that is not there."""

from dataclasses import replace
from pathlib import Path

import pytest

from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.planning import corpus_stats
from fledge.planning.budget import read_time
from fledge.planning.corpus_stats import CorpusStats, read_corpus_stats
from fledge.planning.forecast import complete_for_forecast, expected_loss, make_forecast, occasions, seconds_of_run
from fledge.planning.loss_curve import ROUGH
from fledge.planning.probe import ProbeResult
from fledge.settings.pipeline import resolve

CPU = Machine("cpu", "float32")
COSTS = ProbeResult(start=5.0, token=0.001, update=0.5, judging=0.0001, sampling=0.01, saving=2.0, memory=10**9)
TEXT = CorpusStats(vocab_size=65, train=1_000_000, val=10_000, bytes_per_token=1.0)
NANO = [
    "--model.vocab_size",
    "65",
    "--train.steps",
    "1000",
    "--train.eval_every",
    "300",
    "--train.sample_every",
    "500",
    "--train.save_every",
    "400",
]


def test_time_is_what_was_measured_times_how_often_it_happens() -> None:
    settings = resolve("nanogpt-shakespeare-cpu", NANO)
    found = seconds_of_run(settings, COSTS, TEXT)
    assert found.start == 5.0
    assert found.steps == pytest.approx(1000 * (0.5 + 12 * 64 * 0.001))
    assert found.evaluations == pytest.approx(5 * 10_000 * 0.0001)  # at 0, 300, 600, 900, 1000
    assert found.samples == pytest.approx(3 * 200 * 0.01)  # at 0, 500, 1000
    assert found.saves == pytest.approx(6 * 2.0)  # at 300, 400, 600, 800, 900, 1000
    assert found.total == pytest.approx(5 + found.steps + found.evaluations + found.samples + found.saves)


def test_what_never_happens_takes_no_time() -> None:
    settings = resolve("nanogpt-shakespeare-cpu", ["--train.eval_every", "0", "--train.sample_every", "0"])
    found = seconds_of_run(settings, COSTS, TEXT)
    assert (found.evaluations, found.samples) == (0, 0)
    assert found.saves == 2.0  # the last step's


@pytest.mark.parametrize(
    ("every", "steps", "found"), [(0, 9, set()), (4, 9, {4, 8, 9}), (20, 9, {9}), (3, 9, {3, 6, 9})]
)
def test_something_happens_on_schedule_and_at_the_end(every: int, steps: int, found: set[int]) -> None:
    assert occasions(every, steps) == found


def test_a_forecast_agrees_with_itself() -> None:
    settings = resolve("nanogpt-shakespeare-cpu", NANO)
    found = make_forecast(settings, CPU, COSTS, TEXT, ROUGH, [])
    assert found.tokens == 1000 * 12 * 64
    assert found.tokens_per_second * found.step_seconds == pytest.approx(12 * 64)
    assert found.seconds == found.parts.total
    assert found.memory == 10**9
    assert not found.text_known


def test_an_expected_loss_never_exceeds_that_of_knowing_nothing() -> None:
    settings = resolve("nanogpt-shakespeare-cpu", ["--train.steps", "1"])
    assert expected_loss(settings, TEXT, ROUGH) == pytest.approx(4.174, abs=0.001)  # ln 65


def test_a_cost_halfway_between_two_models_is_halfway() -> None:
    other = replace(COSTS, token=0.003, memory=3 * 10**9)
    assert COSTS.between(other, 0.5).token == pytest.approx(0.002)
    assert COSTS.between(other, 0.5).memory == 2 * 10**9
    assert (COSTS.between(other, 0.0), COSTS.between(other, 1.0)) == (COSTS, other)


def test_a_corpus_that_must_be_fetched_is_guessed_and_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    found = read_corpus_stats(resolve("modern-125m", []))
    assert found.dataset is None
    assert found.vocab_size == 32768
    assert 1e10 < found.train < 4e10  # fineweb-edu's sample holds ten billion tokens of GPT-2's
    assert found.val == pytest.approx(found.train * 0.0002, rel=0.01)
    assert not (tmp_path / "cache").exists()


def test_a_local_text_is_counted_and_a_large_one_is_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "duck.txt").write_text("Once upon a time there was a duck.\n" * 1000)
    words = ["--tokenizer.kind", "char", "--tokenizer.end_of_text", "false", "--data.val", "0.1"]
    settings = resolve("demo", ["--data.corpus", str(tmp_path / "duck.txt"), *words])
    monkeypatch.setattr(corpus_stats, "AT_HAND", 1000)
    guess = read_corpus_stats(settings)
    assert (guess.dataset, guess.train, guess.bytes_per_token) == (None, 31_500, 1.0)
    monkeypatch.setattr(corpus_stats, "AT_HAND", 100_000)
    found = read_corpus_stats(settings)
    assert found.dataset is not None
    assert (found.train, found.val, found.bytes_per_token) == (31_500, 3_500, 1.0)
    assert found.vocab_size == len(set("Once upon a time there was a duck.\n"))


def test_passes_over_a_text_of_unknown_length_cannot_be_planned() -> None:
    settings = resolve("scratch-owt10k", ["--data.corpus", "https://example.invalid/book.txt"])
    with pytest.raises(UserError, match=r"train\.epochs"):
        complete_for_forecast(settings, read_corpus_stats(settings), CPU)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("0.5d", 43_200)])
def test_times_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert read_time(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "m", "-5m", "1y", "1h 30m", "nan", "infs", "0s", "9" * 400 + "d", "9" * 40 + "d", "1001d"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--budget") as refusal:
        read_time(text)
    assert "30m" in refusal.value.hint
