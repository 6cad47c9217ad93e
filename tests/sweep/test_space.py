"""The section [space] of a sweep's file, and the settings that are drawn from it."""

import math
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.errors import UserError
from fledge.sweep.space import flat_names, read_space, read_sweep, suggest

optuna = pytest.importorskip("optuna")
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: E402
from optuna.trial import FrozenTrial, TrialState, create_trial  # noqa: E402

WRITTEN = """
"optim.lr" = {low = 1e-4, high = 1, log = true}
"model.n_layer" = [2, 4, 6]
train.batch = {low = 2, high = 64}
optim.betas = [[0.9, 0.95], [0.9, 0.99]]
"model.size" = ["5M", "30M"]
"""
SPACE = read_space(flat_names(tomllib.loads(WRITTEN)))


def test_space_is_read_with_or_without_quotation_marks() -> None:
    assert {
        "optim.lr": FloatDistribution(1e-4, 1.0, log=True),
        "model.n_layer": CategoricalDistribution([2, 4, 6]),
        "train.batch": IntDistribution(2, 64),
        "optim.betas": CategoricalDistribution(["[0.9, 0.95]", "[0.9, 0.99]"]),
        "model.size": CategoricalDistribution(["5M", "30M"]),
    } == SPACE


@pytest.mark.parametrize(
    ("written", "message", "hint"),
    [
        ("", "[space] is empty", "model.n_layer"),
        ('"optim.lrr" = [1.0]', "unknown setting 'optim.lrr'", "optim.lr"),
        ('"lr" = [1.0]', "'lr' is not a setting", "optim.lr"),
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
def test_mistakes_are_refused_by_name(written: str, message: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        read_space(flat_names(tomllib.loads(written)))
    assert message in caught.value.message
    assert hint in caught.value.hint


def ended(trial: FrozenTrial, state: TrialState) -> FrozenTrial:
    chosen = trial.params
    loss = abs(math.log(chosen["optim.lr"] / 0.01)) + (chosen["model.n_layer"] != 4)
    value = loss if state == TrialState.COMPLETE else None
    return create_trial(state=state, params=chosen, distributions=trial.distributions, value=value)


def search(seed: int, count: int) -> list[FrozenTrial]:
    """Every fifth trial fails."""
    trials: list[FrozenTrial] = []
    for number in range(1, count + 1):
        state = TrialState.COMPLETE if number % 5 else TrialState.FAIL
        trials.append(ended(suggest(SPACE, seed, trials), state))
    return trials


def params(trials: list[FrozenTrial]) -> list[dict[str, object]]:
    return [trial.params for trial in trials]


def test_suggestion_depends_on_seed_and_known_trials_only() -> None:
    assert params(search(1, 14)) == params(search(1, 14))
    assert params(search(1, 14))[:12] == params(search(1, 12))
    assert params(search(2, 3)) != params(search(1, 3))


def test_later_trials_are_better_than_the_first() -> None:
    losses = [trial.value for trial in search(1, 40) if trial.value is not None]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


STATES = [TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING]


@given(seed=st.integers(0, 2**40), known=st.lists(st.sampled_from(STATES), max_size=3))
def test_suggestions_lie_in_the_space(seed: int, known: list[TrialState]) -> None:
    trials: list[FrozenTrial] = []
    for state in [*known, TrialState.RUNNING]:
        trial = suggest(SPACE, seed, trials)
        assert 1e-4 <= trial.params["optim.lr"] <= 1
        assert trial.params["model.n_layer"] in (2, 4, 6)
        assert trial.params["train.batch"] in range(2, 65)
        assert trial.params["optim.betas"] in ("[0.9, 0.95]", "[0.9, 0.99]")
        trials.append(ended(trial, state))


def test_concurrent_trials_differ() -> None:
    first = suggest(SPACE, 1, [])
    assert suggest(SPACE, 1, [first]).params["optim.lr"] != first.params["optim.lr"]


def test_length_that_is_tried_replaces_that_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text('[sweep]\npreset = "smallgpt-shakespeare"\n[space]\n"train.steps" = [50, 60]\n')
    plan = read_sweep(file)
    assert plan.shared["train"]["epochs"] == 15
    train = plan.settings({"train.steps": 50}).train
    assert (train.steps, train.epochs) == (50, None)
    file.write_text(file.read_text() + '"train.epochs" = [1.0, 2.0]\n')
    with pytest.raises(UserError, match=r"train\.steps and train\.epochs"):
        read_sweep(file)
