"""Supervised fine-tuning: which tokens are learned, what is left out, and a model that learns its answers."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

import tiny_chat
from aligning import TOKENIZER, make_setup
from fledge.alignment.common import question
from fledge.alignment.sft import SFT, answer_objective, encode_conversations
from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.datasets.examples import Example
from fledge.losses.logprobs import token_logprobs
from fledge.model.gpt import GPT
from fledge.model.packed import PackedCache
from fledge.training.setup import build_training
from fledge.training.step import TrainStep
from tiny_chat import END, assistant, user

TEMPLATE = tiny_chat.chat_template(TOKENIZER)
MACHINE = Machine("cpu", "float32")
SHORT = [Example((user(f"{a}?"),), target=a * 3) for a in "abcdefghij"]


def opened(examples: Sequence[Example] = SHORT, **train: Any) -> tuple[SFT, TrainStep]:
    layer = {"train": {"eval_every": 5, **train}, "optim": {"lr": 0.01, "warmup_steps": 0}}
    method = SFT(make_setup("sft", layer, examples=examples))
    return method, build_training(method.settings, MACHINE, method)


def learned(example: Example, context: int = 64) -> str:
    """The tokens that count."""
    [found] = encode_conversations([example], TEMPLATE, context)
    return TOKENIZER.decode(found.ids[found.is_answer]).replace("\n", "")


def length(*messages: dict[str, str]) -> int:
    return len(TEMPLATE.encode(messages, add_generation_prompt=False))


def test_answers_and_their_ends_are_learned() -> None:
    [found] = encode_conversations([Example((user("Hi"), assistant("Yes"), user("?")), target="No")], TEMPLATE, 64)
    ids = TEMPLATE.encode([user("Hi"), assistant("Yes"), user("?"), assistant("No")], add_generation_prompt=False)
    assert found.ids.tolist() == ids
    assert found.ids[found.is_answer].tolist() == [*TOKENIZER.encode("Yes"), END, *TOKENIZER.encode("No"), END]


def test_preferences_teach_the_chosen_answer() -> None:
    assert learned(Example((user("Hi"),), chosen="Hello", rejected="What")) == "Hello"


def test_long_conversations_lose_their_first_turns() -> None:
    system = {"role": "system", "content": "S"}
    talk = [user("one"), assistant("first"), user("two"), assistant("second"), user("three")]
    example, whole = Example((system, *talk), target="third"), length(system, *talk, assistant("third"))
    assert learned(example, whole - 1) == "firstsecondthird"
    assert learned(example, whole - 2) == "secondthird"
    shortest = length(system, talk[-1], assistant("third"))
    [found] = encode_conversations([example], TEMPLATE, shortest - 1)
    assert found.ids.tolist() == TEMPLATE.encode([system, talk[-1], assistant("third")], add_generation_prompt=False)
    with pytest.raises(UserError, match="1 too long for the context"):
        encode_conversations([example], TEMPLATE, shortest - 2)


def test_what_cannot_be_learned_is_left_out_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    bad = [
        Example((user("Hi"),)),
        Example((user("Hi"),), target=" \n"),
        Example((user("Hi"), assistant(""), user("?")), target="x"),
        Example((user("Hi" * 99),), target="x"),
    ]
    assert len(encode_conversations([*bad, *SHORT], TEMPLATE, 64)) == len(SHORT)
    message = "4 conversations of 14 left out: 2 with an empty answer, 1 without an answer, 1 too long for the context"
    assert capsys.readouterr().err == f"warning: {message}\n"
    with pytest.raises(UserError, match="no conversation to train on: 2 with an empty answer, 1 without"):
        encode_conversations(bad, TEMPLATE, 64)
    with pytest.raises(UserError, match="the data is empty"):
        encode_conversations([], TEMPLATE, 64)


def test_conversation_that_the_template_refuses_is_named() -> None:
    messages = (user("Once\nupon"), {"role": "tool", "content": "x"})
    with pytest.raises(UserError, match="that begins 'Once upon x': a message cannot have the role 'tool'"):
        encode_conversations([*SHORT, Example(messages, target="y")], TEMPLATE, 64)


def test_training_learns_the_answers() -> None:
    method, step = opened(steps=60)
    before = step(0).loss
    for number in range(1, 60):
        step(number)
    evaluations = method.evaluations(step.model, iter)
    assert before > 5
    assert step(59).loss < 0.7
    assert evaluations.every == 5


def test_evaluation_is_per_answer_token() -> None:
    """From the log-probabilities of each conversation alone."""
    method, step = opened()
    logprobs, correct = [], []
    for each in method.val.conversations:
        ids = torch.from_numpy(each.ids).long()[None]
        with torch.no_grad():
            found = step.model.forward_loss(ids[:, :-1], ids[:, 1:], token_logprobs)[0].numpy()
            best = step.model(ids[:, :-1]).argmax(-1)[0].numpy()
        logprobs += found[each.is_answer[1:]].tolist()
        correct += (best == each.ids[1:])[each.is_answer[1:]].tolist()
    loss = -np.mean(logprobs)
    evaluation = method.evaluations(step.model, iter).evaluate()
    assert evaluation.loss == pytest.approx(loss, rel=1e-5)
    assert evaluation.metrics == pytest.approx(
        {"val/loss": loss, "val/accuracy": np.mean(correct), "val/perplexity": math.exp(loss)}, rel=1e-5
    )


def test_without_held_out_examples_nothing_is_evaluated() -> None:
    setup = make_setup("sft", {"train": {"eval_every": 5}}, examples=SHORT)
    method = SFT(type(setup)(**{**vars(setup), "val": []}))
    evaluations = method.evaluations(tiny_model(method), iter)
    assert evaluations.every == 0
    assert [*evaluations.notices()] == ["10 conversations in 2 rows of 40 tokens, 100 % full; 44 % are answers"]


def tiny_model(method: SFT) -> GPT:
    return build_training(method.settings, MACHINE, method).model


def test_micro_batches_give_the_same_gradient() -> None:
    whole, split = opened()[1], opened(micro_batch=1)[1]
    assert len(split.micro_batches(0)) == 4
    assert whole(0).loss == pytest.approx(split(0).loss, rel=1e-6)
    for a, b in zip(whole.model.parameters(), split.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chunked", [False, True])
def test_head_of_the_answers_alone_gives_the_same_loss_and_gradients(chunked: bool) -> None:
    method, step = opened()
    batch = method.train.batch([0, 1])
    every = answer_objective(MACHINE, chunked=chunked, compile=True)(step.model, batch)
    only = answer_objective(MACHINE, chunked=chunked)(step.model, batch)
    torch.testing.assert_close(only.total, every.total)
    parameters = list(step.model.parameters())
    gradients = zip(
        torch.autograd.grad(only.total, parameters), torch.autograd.grad(every.total, parameters), strict=True
    )
    for a, b in gradients:
        torch.testing.assert_close(a, b)


def test_loss_is_that_of_packed_rows() -> None:
    method, step = opened()
    batch = method.train.batch(range(len(method.train.rows)))
    found = method.objective(compile=False)(step.model, batch)
    cache = PackedCache(step.model.config, batch.extra["positions"])
    logprobs = step.model.forward_loss(batch.inputs, batch.targets, token_logprobs, cache)
    torch.testing.assert_close(found.total, -logprobs.sum())
    assert int(found.count) == sum(each.is_answer.sum() for each in method.train.conversations)


def test_sample_answers_a_held_out_question() -> None:
    examples = [Example((user("Say a"),), target="aaa"), Example((user("Say b"),), target="bbb")] * 8
    setup = make_setup(
        "sft", {"optim": {"lr": 0.02, "warmup_steps": 0}, "track": {"temperature": 0}}, examples=examples
    )
    method = SFT(type(setup)(**{**vars(setup), "val": examples[:2]}))
    step = build_training(method.settings, MACHINE, method)
    for number in range(100):
        step(number)
    sample = method.sample(step.model, 100, iter)
    assert (sample.step, sample.prompt, sample.text) == (100, "user: Say a\nassistant: ", "aaa")
    assert question(method.setup) == [user("Say a")]
