"""Pairs made from the answers of a policy and a reward."""

import json
from pathlib import Path

import pytest
import torch

import tiny_chat
from fledge.alignment.config import RolloutConfig
from fledge.alignment.make_preferences import EQUAL, UNFINISHED, best_and_worst, make_preferences, write_preferences
from fledge.alignment.rollout import Answer, Prompt
from fledge.alignment.setup import Reward
from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.datasets.conversations import read_examples
from fledge.datasets.examples import Example
from tiny_chat import END, user

MACHINE = Machine("cpu", "float32")
TOKENIZER = tiny_chat.chat_tokenizer()
TEMPLATE = tiny_chat.chat_template(TOKENIZER)
PROMPTS = [Example((user(f"{n}?"),), target=str(n), fields={"source": "test"}) for n in range(5)]
ROLLOUT = RolloutConfig(prompts=2, max_tokens=8, slots=4)


def made(reward: Reward, examples: list[Example] = PROMPTS, **options: int) -> list[Example]:
    model = tiny_chat.tiny_model(head_bias=True)
    with torch.no_grad():
        model.head.bias[END] = 4.0  # answers end after a few letters
    return make_preferences(model, examples, reward, TOKENIZER, TEMPLATE, MACHINE, ROLLOUT, **options)


def vowels(prompt: str, answer: str, target: str | None) -> float:
    assert prompt == f"{target}?"
    return float(sum(character in "aeiou" for character in answer))


def letters(prompt: str, answer: str, target: str | None) -> float:
    """Differs for any two answers."""
    return sum(ord(character) * 1.1**n for n, character in enumerate(answer))


def constant(prompt: str, answer: str, target: str | None) -> float:
    return 1.0


def failing(prompt: str, answer: str, target: str | None) -> float:
    return 1 / 0


def answer(text: str, *, truncated: bool = False) -> Answer:
    return Answer((1,), text, truncated, ())


def pair_of(*answers: Answer) -> Example | str:
    return best_and_worst(PROMPTS[0], Prompt((1,), "0?", "0"), answers, vowels)


def test_best_and_worst_answer_are_the_pair() -> None:
    pair = pair_of(answer("ab"), answer("xx"), answer("aeb"), answer("aio"), answer("zz"))
    assert isinstance(pair, Example)
    assert (pair.chosen, pair.rejected) == ("aio", "xx")
    assert pair.messages == PROMPTS[0].messages
    assert pair.fields == {"source": "test", "chosen_reward": "3", "rejected_reward": "0"}


def test_unfinished_answers_are_rejected_only() -> None:
    pair = pair_of(answer("aaa", truncated=True), answer("a"), answer("x", truncated=True))
    assert isinstance(pair, Example)
    assert (pair.chosen, pair.rejected) == ("a", "x")
    assert pair_of(answer("aaa", truncated=True), answer("x", truncated=True)) == UNFINISHED
    assert pair_of(answer("aaa", truncated=True), answer("x")) == UNFINISHED


def test_equal_rewards_and_empty_answers_make_no_pair() -> None:
    assert pair_of(answer("a"), answer("e")) == EQUAL
    assert pair_of(answer("a"), answer(" \n")) == EQUAL
    assert pair_of(answer(""), answer("")) == UNFINISHED


def test_pairs_of_a_model_are_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = made(letters, samples=6)
    assert 0 < len(pairs) <= len(PROMPTS)
    assert f"{len(pairs)} pairs made" in capsys.readouterr().err
    for pair in pairs:
        assert letters("", pair.chosen or "", None) > letters("", pair.rejected or "", None)
    write_preferences(pairs, tmp_path / "pairs.jsonl")
    first = json.loads((tmp_path / "pairs.jsonl").read_text().splitlines()[0])
    assert list(first) == ["prompt", "chosen", "rejected", "source", "chosen_reward", "rejected_reward"]
    read = read_examples([str(tmp_path / "pairs.jsonl")])
    assert [(each.messages, each.chosen, each.rejected, each.fields) for each in read] == [
        (each.messages, each.chosen, each.rejected, each.fields) for each in pairs
    ]


def test_answers_depend_on_the_seed_and_not_on_other_prompts() -> None:
    whole = made(letters, samples=4)
    assert made(letters, samples=4) == whole
    assert made(letters, PROMPTS[:3], samples=4) == [
        pair for pair in whole if pair.messages[0] in [each.messages[0] for each in PROMPTS[:3]]
    ]
    assert made(letters, samples=4, seed=1) != whole


def test_prompts_without_room_for_an_answer_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    long = Example((user("x" * 60),))
    assert len(made(letters, [*PROMPTS, long], samples=6)) == len(made(letters, samples=6))
    assert "prompts too long: 1" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"no pair could be made \(prompts too long: 1"):
        made(letters, [long])


def test_reward_that_never_differs_is_refused() -> None:
    with pytest.raises(UserError, match="all answers rewarded alike"):
        made(constant)


def test_failing_reward_and_single_samples_are_refused() -> None:
    with pytest.raises(UserError, match="ZeroDivisionError"):
        made(failing)
    with pytest.raises(UserError, match="1 answer"):
        made(letters, samples=1)
