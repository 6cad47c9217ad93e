"""The loss forecast: what the table knows, what it does not, and what the user's own runs add."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.config import read_overrides
from fledge.planning.loss_forecast import (
    Interval,
    RunPoint,
    final_bits_per_byte,
    forecast_loss,
    read_table,
    recipe_name,
    table_recipes,
)
from fledge.runs.run_folder import RunFolder
from fledge.settings.pipeline import resolve
from fledge.tracking.sinks.csv import read_metrics

RUN = RunPoint("new", "text", entropy=2.0, vocab_size=4096, parameters=400_000, tokens=1e6, train_tokens=2e6)


def made_up(text: str, factor: float, tokens: float = 1e6) -> RunPoint:
    """A run whose loss is `factor` times the entropy of its text."""
    return replace(RUN, text=text, tokens=tokens, bits_per_byte=factor * RUN.entropy)


def width(found: Interval | None) -> float:
    assert found is not None
    return found.high / found.low


def test_forecast_lies_between_the_runs_of_similar_texts() -> None:
    found = forecast_loss(RUN, [made_up("a", 0.92), made_up("b", 0.98), made_up("c", 0.95)])
    assert found is not None
    assert found.expected == pytest.approx(0.95 * RUN.entropy, rel=0.01)
    assert found.low < 0.92 * RUN.entropy < 0.98 * RUN.entropy < found.high


def test_nothing_is_forecast_without_runs_of_the_same_recipe() -> None:
    assert forecast_loss(RUN, []) is None
    others = [replace(made_up(text, 0.95), recipe="other") for text in "abcdefgh"]
    assert forecast_loss(RUN, others) is None


@pytest.mark.parametrize(
    ("change", "covered"),
    [
        ({"tokens": 0.8e6}, True),
        ({"tokens": 0.6e6}, False),
        ({"tokens": 1.5e6, "train_tokens": 1e8}, True),
        ({"tokens": 1e7, "train_tokens": 1e8}, False),
        ({"tokens": 3e6, "train_tokens": 1e6}, False),  # three passes over the text
        ({"parameters": 2_000_000}, True),
        ({"parameters": 10**9}, False),
        ({"parameters": 1000}, False),
    ],
    ids=str,
)
def test_run_far_from_all_known_ones_is_not_forecast(change: dict[str, Any], covered: bool) -> None:
    known = [made_up(text, 0.95) for text in "abcdefgh"]
    assert (forecast_loss(replace(RUN, **change), known) is not None) == covered


def test_own_run_makes_the_interval_narrower_and_is_met() -> None:
    known = [made_up(text, 0.95) for text in "abcdefgh"]
    before, after = forecast_loss(RUN, known), forecast_loss(RUN, [*known, made_up("new", 1.0)])
    assert width(after) < width(before)
    assert after is not None
    assert after.expected == pytest.approx(1.0 * RUN.entropy, rel=0.015)


@given(st.lists(st.floats(0.8, 1.1), min_size=3, max_size=10), st.floats(1e5, 1e7))
def test_interval_holds_its_middle_and_never_narrows_below_noise(factors: list[float], tokens: float) -> None:
    found = forecast_loss(replace(RUN, tokens=tokens), [made_up(str(n), factor) for n, factor in enumerate(factors)])
    if found is not None:
        assert found.low < found.expected < found.high
        assert found.high / found.expected > 1.01


def test_interval_scales_with_its_unit() -> None:
    assert Interval(2.0, 1.9, 2.1) * 2 == Interval(4.0, 3.8, 4.2)
    assert 2.05 in Interval(2.0, 1.9, 2.1)
    assert 2.2 not in Interval(2.0, 1.9, 2.1)


def test_table_is_plausible() -> None:
    table = read_table()
    assert len({point.text for point in table}) >= 4
    for point in table:
        assert 0.5 < point.bits_per_byte / point.entropy < 2
        assert point.parameters > 10_000
        assert point.tokens > 100_000


def test_every_run_of_the_table_is_forecast_from_the_table() -> None:
    for point in read_table():
        found = forecast_loss(point, read_table())
        assert found is not None
        assert found.expected == pytest.approx(point.bits_per_byte, rel=0.06)


def test_recipe_is_the_preset_unless_more_than_size_and_length_differ() -> None:
    small = read_overrides(
        ["--model.n_embd", "64", "--model.n_head", "1", "--train.steps", "9", "--model.context", "64"]
    )
    assert recipe_name(resolve("text")) == recipe_name(resolve("text", small)) == "text"
    assert recipe_name(resolve("text", read_overrides(["--model.mlp", "gelu"]))) != "text"
    without_table = {"bigram_rows": None}
    assert recipe_name(resolve("text", {"model": without_table})) == "text, portable"
    assert recipe_name(resolve("text", {"model": without_table | {"dropout": 0.5}})) not in table_recipes()
    assert recipe_name(resolve("gpt2")) not in {point.recipe for point in read_table()}


@pytest.mark.parametrize(
    ("columns", "last", "expected"),
    [
        ("val/bits_per_byte,val/fraction", "2.5,1.0", 2.5),
        ("val/bits_per_byte,val/fraction", "2.5,0.3", None),
        ("val/bits_per_byte,val/fraction,val_whole/bits_per_byte", "2.5,0.3,2.6", 2.6),
        ("val/bits_per_byte,val/fraction,val_whole/bits_per_byte", "2.5,0.3,", None),
    ],
)
def test_loss_of_a_finished_run_is_that_of_the_whole_split(
    tmp_path: Path, columns: str, last: str, expected: float | None
) -> None:
    """At the last step; the row before is of a shorter run, which was continued."""
    (tmp_path / "config.toml").write_text("[train]\nsteps = 20\n")
    rows = [f"step,{columns}", f"10,{','.join('3.0' for _ in columns.split(','))}"]
    for end, value in ((f"20,{last}", expected), (f"19,{last}", None)):
        (tmp_path / "metrics.csv").write_text("\n".join([*rows, end, ""]))
        assert final_bits_per_byte(RunFolder(tmp_path), read_metrics(tmp_path)) == value
