"""How a time is written, and how the search fills it; nothing is measured here."""

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.config import merge, read_overrides
from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.model.flops import training_flops
from fledge.planning import budget
from fledge.planning.budget import START_SECONDS, TimeSearch, parse_minutes
from fledge.planning.corpus_stats import CorpusStats
from fledge.planning.forecast import run_seconds
from fledge.planning.probe import Costs
from fledge.planning.recipe import BETTER_WITHOUT_BIGRAMS, MAX_PASSES, MAX_PASSES_WITH_BIGRAMS, SHAPES
from fledge.recipes.plan import train_command
from fledge.settings.layers import read_preset
from fledge.settings.pipeline import validated
from fledge.training.config import Settings


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("3", 180),
        ("0.5", 30),
        ("30m", 1800),
        ("1h30m", 5400),
        ("0.5d", 43_200),
        (".5", 30),
        ("2.", 120),
        (".5h", 1800),
    ],
)
def test_durations_are_parsed(text: str, seconds: float) -> None:
    assert parse_minutes(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", ".", "1.2.3", ".m", "m", "-5m", "1y", "1h 30m", "nan", "infs", "0s", "9" * 400 + "d", "9" * 40 + "d", "1001d"],
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UserError, match="--minutes") as refusal:
        parse_minutes(text)
    assert refusal.value.message == f"--minutes cannot be {text!r}"
    assert "30" in refusal.value.hint


CORPUS = CorpusStats(vocab_size=4096, train_tokens=10**8, val_tokens=100_000, bytes_per_token=3.5)


@pytest.fixture
def rate(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A machine of so many FLOP/s, faster by `compiled` in compiled code; `probes` counts the measurements."""
    speed = {"flops": 1e11, "compiled": 1.5, "probes": 0}

    def costs(settings: Settings, *_: object) -> Costs:
        speed["probes"] += 1
        factor = speed["compiled"] if settings.train.compile is True else 1.0
        per_token = training_flops(settings.model) / speed["flops"] / factor
        return Costs(0.0, per_token, 0.01, per_token / 3, 0.002, 0.1, peak_memory=10**9)

    monkeypatch.setattr(budget, "measure_costs", costs)
    monkeypatch.setattr(budget, "tokens_per_second_guess", lambda model, _: 5e10 / training_flops(model))
    monkeypatch.setattr(budget, "can_compile", lambda settings, _: settings.train.compile is True)
    return speed


def search(seconds: float, *words: str, corpus: CorpusStats = CORPUS) -> TimeSearch:
    overrides, (preset, _) = read_overrides(list(words)), read_preset("text")
    base, machine = validated(preset, overrides), Machine("cpu", "float32")
    return TimeSearch(preset, overrides, base, corpus, machine, seconds, None, Path(), time.perf_counter())


@pytest.mark.parametrize("seconds", [15, 60, 180, 800])
def test_time_is_used_and_not_exceeded(rate: dict[str, Any], seconds: float) -> None:
    settings, overrides, costs = search(seconds).best()
    total = run_seconds(settings, costs, CORPUS).total
    assert 0.8 * (seconds - START_SECONDS) < total <= seconds - START_SECONDS
    assert validated(read_preset("text")[0], overrides).train.steps == settings.train.steps
    assert rate["probes"] <= 2


def test_more_time_and_a_faster_machine_have_a_larger_model(rate: dict[str, Any]) -> None:
    widths = [search(seconds).best()[0].model.n_embd for seconds in (20, 180, 800)]
    rate["flops"] = 1e12
    widths.append(search(800).best()[0].model.n_embd)
    assert widths == sorted(set(widths))


def test_compiled_code_is_used_in_long_runs_if_it_is_faster(rate: dict[str, Any]) -> None:
    assert search(800).best()[0].train.compile is False
    assert search(3600).best()[0].train.compile is True
    assert search(3600, "--train.compile", "false").best()[0].train.compile is False
    rate["compiled"] = 0.9
    assert search(3600).best()[0].train.compile is False


def test_compiled_code_is_tried_in_shorter_runs_where_other_work_than_products_takes_long(
    rate: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "tokens_per_second_guess", lambda model, _: 2e11 / training_flops(model))
    assert [search(seconds).best()[0].train.compile for seconds in (240, 600)] == [False, True]
    rate["compiled"] = 3.0
    plain, compiled = (search(600, "--train.compile", each).best()[0].model.n_embd for each in ("false", "auto"))
    assert plain < compiled  # a larger model than that which was measured


def test_small_text_gets_fewer_steps_and_it_is_said(rate: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    settings = search(180, corpus=replace(CORPUS, train_tokens=40_960)).best()[0]
    assert 0.9 * MAX_PASSES < settings.train.steps * settings.step_tokens / 40_960 <= MAX_PASSES
    assert (settings.model.bigram_rows, settings.model.dropout) == (None, 0.1)
    said = capsys.readouterr().err
    assert "the text is small" in said
    assert f"{MAX_PASSES:.0f} passes over the text: with dropout 0.1 and without a bigram table" in said
    steps = search(180, corpus=replace(CORPUS, train_tokens=1000)).best()[0].train.steps
    assert steps == budget.MIN_STEPS
    assert f"the text is small: {steps} steps" in capsys.readouterr().err


def test_bigram_table_that_is_given_stays_in_many_passes(
    rate: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--model.bigram_rows", "4096", "--model.dropout", "0.3")
    settings, overrides, _ = search(180, *given, corpus=replace(CORPUS, train_tokens=40_960)).best()
    assert (settings.model.bigram_rows, settings.model.dropout) == (4096, 0.3)
    assert settings.train.steps * settings.step_tokens > 0.9 * MAX_PASSES * 40_960
    assert "passes over the text: with dropout 0.3, as it is memorized in part" in capsys.readouterr().err
    assert "null" not in train_command("text", overrides)


def test_short_text_gets_a_larger_model_for_a_long_time(rate: dict[str, Any]) -> None:
    """Instead of more passes; but not one that is meant for far more text."""
    short = replace(CORPUS, train_tokens=2_000_000)
    found = [search(seconds, corpus=short).best()[0] for seconds in (120, 300, 900, 36_000)]
    widths = [settings.model.n_embd for settings in found]
    assert widths == sorted(widths)
    assert widths[1:3] == [192, 256]
    for settings in found:
        few = settings.model.bigram_rows is not None
        assert (
            settings.train.steps * settings.step_tokens <= (MAX_PASSES_WITH_BIGRAMS if few else MAX_PASSES) * 2_000_000
        )
    assert widths[3] < search(36_000).best()[0].model.n_embd


@pytest.mark.parametrize("seconds", range(20, 240, 20))
def test_one_pass_with_a_bigram_table_or_many_without(rate: dict[str, Any], seconds: int) -> None:
    found = search(seconds, corpus=replace(CORPUS, train_tokens=700_000))
    settings = found.best()[0]
    passes = settings.train.steps * settings.step_tokens / 700_000
    if settings.model.bigram_rows:
        assert passes <= MAX_PASSES_WITH_BIGRAMS
    else:
        assert passes > 0.99 * BETTER_WITHOUT_BIGRAMS


def test_second_pass_with_a_bigram_table_gives_way_to_a_larger_model(rate: dict[str, Any]) -> None:
    """Where the smaller one would have more time than its one pass takes."""
    short = replace(CORPUS, train_tokens=1_450_000)
    widths = {seconds: search(seconds, corpus=short).best()[0].model.n_embd for seconds in (110, 150, 220)}
    assert widths == {110: 128, 150: 128, 220: 192}
    assert search(220).best()[0].model.n_embd == 128  # of a longer text


@pytest.mark.parametrize("seconds", [60, 120, 180, 240, 300, 420, 600, 900])
@pytest.mark.parametrize("flops", [5e10, 1e11, 2e11])
def test_short_text_gets_no_model_that_the_time_is_far_too_short_for(
    rate: dict[str, Any], seconds: float, flops: float
) -> None:
    rate["flops"] = flops
    settings = search(seconds, corpus=replace(CORPUS, train_tokens=1_450_000)).best()[0]
    size = settings.model.n_layer, settings.model.n_embd
    (chosen,) = (shape for shape in SHAPES if (shape.n_layer, shape.n_embd) == size)
    tokens = settings.train.steps * settings.step_tokens
    assert tokens > 0.3 * chosen.tokens


def test_shape_that_turns_out_slow_is_replaced(rate: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own measurement it gets too few tokens; the estimate from another shape said otherwise."""
    rate["flops"] = 4e11  # the first shape is chosen for a slower machine
    first = search(240).best()[0]
    measured = budget.measure_costs

    def slower(settings: Settings, *rest: Any) -> Costs:
        costs = measured(settings, *rest)
        return replace(costs, per_token=costs.per_token * 10) if rate["probes"] == 2 else costs

    rate["probes"] = 0
    monkeypatch.setattr(budget, "measure_costs", slower)
    second = search(240).best()[0]
    assert rate["probes"] == 2
    assert second.model.n_embd < first.model.n_embd
    assert second.train.steps > 100


@pytest.mark.parametrize("words", [(), ("--train.batch", "6"), ("--model.context", "48"), ("--model.n_embd", "64")])
def test_passes_are_those_of_the_settings(rate: dict[str, Any], words: tuple[str, ...]) -> None:
    found = search(60, *words, corpus=replace(CORPUS, train_tokens=400_000))
    for shape in found.shapes:
        assert found.passes(shape, 100) == 100 * found.settings(shape, 100).step_tokens / 400_000


def test_given_settings_stay(rate: dict[str, Any]) -> None:
    settings = search(60, "--model.n_embd", "64", "--model.n_head", "2", "--train.batch", "6").best()[0]
    assert (settings.model.n_embd, settings.model.n_head, settings.train.batch) == (64, 2, 6)
    settings, overrides, _ = search(60, "--train.batch", "6", "--model.context", "48").best()
    assert (settings.model.context, settings.train.batch) == (48, 6)
    assert overrides["train"]["batch"] == "6"  # as it was given


def test_decay_of_the_presets_length_does_not_apply(rate: dict[str, Any]) -> None:
    found = search(60, "--optim.schedule", "cosine")
    longer = replace(found, preset=merge(found.preset, {"optim": {"decay_steps": 10**6, "warmup_steps": 10}}))
    longer = replace(longer, base=validated(longer.preset, longer.overrides))
    settings, overrides, _ = longer.best()
    assert settings.optim.decay_steps is None
    assert "--optim.decay_steps null" in train_command("text", overrides)
    own = replace(longer, overrides=merge(longer.overrides, {"optim": {"decay_steps": 5000}}))
    assert own.best()[0].optim.decay_steps == 5000


def test_short_time_gets_a_smaller_model_and_then_few_steps(
    rate: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    rate["flops"] = 1e10
    settings = search(20).best()[0]
    assert settings.model.n_embd == 64
    assert "are short" not in capsys.readouterr().err
    assert search(0.1).best()[0].train.steps == budget.MIN_STEPS
    assert "0.1 s are short: the smallest useful run takes about" in capsys.readouterr().err


def test_given_model_that_takes_too_long_is_refused(rate: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="not enough") as refusal:
        search(60, "--model.n_embd", "3072").best()
    assert "--minutes" in refusal.value.hint


def test_slow_preparation_leaves_the_rest_of_the_time(rate: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    late = replace(search(60), begun=time.perf_counter() - 50)
    assert late.available < 10
    settings, _, costs = late.best()
    assert run_seconds(settings, costs, CORPUS).total < 10
    told = capsys.readouterr().err
    assert len(re.findall(r"preparing took \d\d s of 1 min 00 s: the rest is for training", told)) == 1
    over = replace(late, begun=time.perf_counter() - 600)
    assert over.available == 6  # planned for; the run itself ends at once
    over.best()
    assert "s of 1 min 00 s: the run ends after its first steps" in capsys.readouterr().err
    search(60).best()
    assert "preparing took" not in capsys.readouterr().err


@given(st.integers(1, 64))
def test_batch_is_divisible_by_the_processes(processes: int) -> None:
    for shape in replace(search(60), processes=processes).shapes:
        assert shape.batch % processes == 0


def test_given_batch_stays_with_several_processes(rate: dict[str, Any]) -> None:
    assert replace(search(60, "--train.batch", "8"), processes=3).best()[0].train.batch == 8
    assert replace(search(60), processes=3).best()[0].train.batch % 3 == 0
    given_shape = search(60, "--model.n_embd", "64", "--model.n_head", "2")
    assert replace(given_shape, processes=3).best()[1]["train"]["batch"] == 33
