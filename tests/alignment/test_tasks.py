"""The built-in tasks: their splits, their answers, and what their rules reward."""

import importlib.util
import sys

import pytest

from fledge.alignment.tasks.registry import TASKS, find_task, is_task
from fledge.core.errors import UserError


def prompts(examples):
    return [example.messages[-1]["content"] for example in examples]


@pytest.mark.parametrize("name", TASKS)
def test_splits_are_disjoint_and_repeatable(name):
    task = find_task(name)
    train, val = task.examples(1, 3000, "train"), task.examples(1, 1000, "val")
    assert not set(prompts(train)) & set(prompts(val))
    assert len(set(prompts(train))) == len(train) > 2000
    assert len(set(prompts(val))) == len(val) > 600
    assert task.examples(1, 50, "train") == train[:50]
    assert task.examples(2, 50, "train") != train[:50]
    assert task.examples(2, 50, "val") == val[:50]


@pytest.mark.parametrize("name", TASKS)
def test_rule_prefers_the_chosen_answer(name):
    task = find_task(name)
    for example in task.examples(3, 300, "train"):
        prompt = prompts([example])[0]
        assert example.messages[-1]["role"] == "user"
        rewards = [task.reward(prompt, answer, example.target) for answer in (example.chosen, example.rejected)]
        assert 0 <= rewards[1] < rewards[0] <= 1
        if name != "cheerful":
            assert rewards[0] == pytest.approx(1)
        assert task.reward(prompt, "", example.target) < rewards[0]


def test_an_exhausted_task_ends():
    assert 2000 < len(find_task("spelling").examples(0, 10**6, "train")) < 10**5
    assert 2000 < len(find_task("style").examples(0, 10**6, "train")) < 10**5


def test_addition_is_right_and_its_rejected_answer_is_not():
    for example in find_task("addition").examples(0, 500, "train"):
        a, b = (int(number.replace(" ", "")) for number in prompts([example])[0].rstrip("=").split("+"))
        assert 10 <= a <= 999
        assert 10 <= b <= 999
        value = int(example.target.replace(" ", "")[::-1])
        assert value == a + b
        assert int(example.rejected.replace(" ", "")[::-1]) != value


def test_sums_in_either_order_are_in_one_split():
    splits = [find_task("addition").examples(0, 2000, split) for split in ("train", "val")]
    asked = [{frozenset(prompt.rstrip(" =").split(" + ")) for prompt in prompts(split)} for split in splits]
    assert not asked[0] & asked[1]


@pytest.mark.parametrize(
    ("name", "prompt", "answer", "target", "reward"),
    [
        ("letter-counting", "How many times is the letter e in tree?", " 2\n", "2", 1),
        ("letter-counting", "How many times is the letter e in tree?", "2 or 3", "2", 0),
        ("spelling", "Spell cat.", "c a t", "c a t", 1),
        ("spelling", "Spell cat.", "c a", "c a t", 1 / 3),
        ("spelling", "Spell cat.", "c a t s", "c a t", 3 / 8),
        ("spelling", "Spell cat.", "cat", "c a t", 0),
        ("instructions", "Write tea two times.", "tea tea", "tea tea", 1),
        ("instructions", "List two animals.", "dog, cat", "cow, cat", 1),
        ("instructions", "List two animals.", "dog, dog", "cow, cat", 0.5),
        ("instructions", "List two animals.", "dog, cat, cow", "cow, cat", 2 / 3),
        ("instructions", "List two animals.", "tea, water", "cow, cat", 0),
        ("docstrings", "What does x do?", "Serialize an object.", "Serialize the object.", 2 / 3),
        ("style", "Do you like old tea?", "Thank you, I love old tea!", None, 1),
        ("style", "Do you like old tea?", "Thank you, I love it!", None, 0.75),
        ("style", "Do you like old tea?", "I hate old tea.", None, 0.5),
        ("style", "Do you like old tea?", "great " * 40, None, 0.25),
        ("cheerful", "Do you like old tea?", "great great", None, 1),
        ("cheerful", "Do you like old tea?", "great tea", None, 0.5),
    ],
)
def test_rewards(name, prompt, answer, target, reward):
    assert find_task(name).reward(prompt, answer, target) == pytest.approx(reward)


def test_unknown_task_names_the_nearest():
    assert is_task("addition")
    assert is_task("reasoning-gym:chain_sum")
    assert not is_task("additon")
    with pytest.raises(UserError, match="there is no task 'additon'") as found:
        find_task("additon")
    assert "addition" in found.value.hint


@pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="needs reasoning-gym")
def test_reasoning_gym():
    try:
        task = find_task("reasoning-gym:chain_sum")
    except UserError as error:  # a package that reasoning-gym needs
        pytest.skip(error.message)
    train, val = task.examples(1, 60, "train"), task.examples(1, 40, "val")
    assert len(train) == 60
    assert not set(prompts(train)) & set(prompts(val))
    assert task.examples(1, 60, "train") == train
    for example in train:
        assert task.reward(prompts([example])[0], example.target, example.target) == 1
        assert task.reward(prompts([example])[0], "no number", example.target) < 0.1
    with pytest.raises(UserError, match="no dataset 'chainsum'") as found:
        find_task("reasoning-gym:chainsum")
    assert "chain_sum" in found.value.hint


def test_reasoning_gym_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(UserError, match="reasoning") as found:
        find_task("reasoning-gym:chain_sum")
    assert found.value.hint == "install it: pip install 'fledge[reasoning-gym]'"
