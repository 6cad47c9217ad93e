"""What a sweep may try, as it is written; and which of it comes next."""

import math
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.errors import UserError
from fledge.sweep.space import ListDimension, RangeDimension, read_space, suggest
from fledge.sweep.study import FAILED, FINISHED, Trial

pytest.importorskip("optuna")

WRITTEN = """
"optim.lr" = {low = 1e-4, high = 1, log = true}
"model.n_layer" = [2, 4, 6]
train.batch = {low = 2, high = 64}
optim.betas = [[0.9, 0.95], [0.9, 0.99]]
"model.size" = ["5M", "30M"]
"""
SPACE = read_space(tomllib.loads(WRITTEN))


def test_a_space_is_read_as_it_is_written_with_quotation_marks_or_without() -> None:
    assert {
        "optim.lr": RangeDimension(1e-4, 1.0, log=True),
        "model.n_layer": ListDimension([2, 4, 6]),
        "train.batch": RangeDimension(2, 64),
        "optim.betas": ListDimension([(0.9, 0.95), (0.9, 0.99)]),
        "model.size": ListDimension(["5M", "30M"]),
    } == SPACE
    assert isinstance(SPACE["optim.lr"], RangeDimension)
    assert isinstance(SPACE["optim.lr"].high, float)  # the setting is a number, so 1 is one, too


@pytest.mark.parametrize(
    ("written", "message", "hint"),
    [
        ("", "[space] is empty", "model.n_layer"),
        ('"optim.lrr" = [1.0]', "unknown setting 'optim.lrr'", "optim.lr"),
        ('"lr" = [1.0]', "'lr' is no setting", "optim.lr"),
        ('"optim.lr" = 0.1', "optim.lr cannot be 0.1", "low"),
        ('"optim.lr" = []', "optim.lr cannot be []", "[2, 4, 6]"),
        ('"optim.lr" = ["fast"]', "optim.lr cannot be 'fast'", "a number"),
        ('"optim.lr" = {low = 1.0, hihg = 2.0}', "no 'hihg'", "high"),
        ('"optim.lr" = {low = 1.0}', "has no high", "low"),
        ('"optim.lr" = {low = 2.0, high = 1.0}', "low = 2.0 to high = 1.0", "below"),
        ('"optim.lr" = {low = 1.0, high = 1.0}', "low = 1.0 to high = 1.0", "below"),
        ('"optim.lr" = {low = 1.0, high = inf}', "high = inf", "below"),
        ('"optim.lr" = {low = nan, high = 1.0}', "low = nan", "below"),
        ('"optim.lr" = {low = 0.0, high = 1.0, log = true}', "log = true and low = 0.0", "above 0"),
        ('"optim.lr" = {low = 0.1, high = 1.0, log = 3}', "log cannot be 3", "true or false"),
        ('"model.n_layer" = {low = 1.5, high = 3}', "low cannot be 1.5", "a whole number"),
        ('"model.norm" = {low = 1, high = 3}', "model.norm takes no number", "list"),
    ],
)
def test_what_is_written_wrongly_is_named(written: str, message: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        read_space(tomllib.loads(written))
    assert message in caught.value.message
    assert hint in caught.value.hint


def loss(chosen: dict[str, Any]) -> float:
    return abs(math.log(chosen["optim.lr"] / 0.01)) + (chosen["model.n_layer"] != 4)


def swept(seed: int, count: int) -> list[Trial]:
    trials: list[Trial] = []
    for number in range(1, count + 1):
        chosen = suggest(SPACE, seed, trials)
        failed = number % 5 == 0
        trials.append(Trial(number, chosen, FAILED if failed else FINISHED, None if failed else loss(chosen)))
    return trials


def test_what_comes_next_depends_on_the_seed_and_on_what_is_known_alone() -> None:
    assert swept(1, 14) == swept(1, 14)
    assert swept(1, 14)[:12] == swept(1, 12)
    assert swept(2, 3) != swept(1, 3)


def test_in_the_long_run_better_settings_are_tried_than_at_first() -> None:
    losses = [trial.loss for trial in swept(1, 40) if trial.loss is not None]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


@given(seed=st.integers(0, 2**40), known=st.lists(st.sampled_from([FINISHED, FAILED, "begun"]), max_size=3))
def test_only_what_may_be_tried_is_tried(seed: int, known: list[str]) -> None:
    trials: list[Trial] = []
    for state in [*known, "begun"]:
        chosen = suggest(SPACE, seed, trials)
        assert 1e-4 <= chosen["optim.lr"] <= 1
        assert chosen["model.n_layer"] in (2, 4, 6)
        assert chosen["train.batch"] in range(2, 65)
        assert chosen["optim.betas"] in ((0.9, 0.95), (0.9, 0.99))
        trials.append(Trial(len(trials) + 1, chosen, state, loss(chosen) if state == FINISHED else None))


def test_two_that_are_at_work_at_a_time_try_different_things() -> None:
    first = Trial(1, suggest(SPACE, 1, []))
    assert suggest(SPACE, 1, [first])["optim.lr"] != first.chosen["optim.lr"]
