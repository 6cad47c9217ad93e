"""Pairs of answers as batches."""

import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny_chat
from fledge.alignment.preferences import (
    PairReader,
    drawn_examples,
    encode_answer,
    encode_pairs,
    pair_batch,
    without_first_turn,
)
from fledge.core.errors import UserError
from fledge.datasets.examples import Example
from fledge.losses.cross_entropy import IGNORE
from fledge.tokenizers.base import parse_tokenizer
from fledge.tokenizers.chat_template import ChatTemplate, Message
from fledge.tokenizers.hf import HFTokenizer
from fledge.tokenizers.hf_json import added_tokens_json
from fledge.training.config import TrainConfig
from tiny_chat import END, assistant, user

TOKENIZER = tiny_chat.chat_tokenizer()
TEMPLATE = tiny_chat.chat_template(TOKENIZER)


def pair(chosen: str | None = "yes", rejected: str | None = "no", *messages: Message) -> Example:
    return Example(messages or (user("Well?"),), chosen, rejected)


def shown(ids: Any) -> str:
    """Bytes as text, special tokens as S, U, A, E, ignored targets as a dot."""
    return "".join(
        "." if i == IGNORE else "SUAE"[i - 256] if i >= 256 else TOKENIZER.decode([i]) for i in map(int, ids)
    )


def test_targets_are_the_answer_and_the_end_of_its_turn() -> None:
    batch = pair_batch(encode_pairs([pair()], TEMPLATE, 64), 64)
    assert batch.inputs.shape == batch.targets.shape == (1, 2, 16)
    assert [shown(row) for row in batch.targets[0]] == [".......yesE.....", ".......noE......"]
    assert [shown(row)[:11] for row in batch.inputs[0]] == ["UWell?EAyes", "UWell?EAno!"]  # filled with id 0


def test_system_message_and_earlier_answers_are_prompt() -> None:
    talk = ({"role": "system", "content": "s"}, user("a"), assistant("b"), user("c"))
    batch = pair_batch(encode_pairs([pair("d", "e", *talk)], TEMPLATE, 64), 64)
    assert shown(batch.inputs[0, 0]).startswith("SsEUaEAbEUcEAd")
    assert shown(batch.targets[0, 0]).strip(".") == "dE"


def test_length_is_that_of_the_longest_up_to_a_multiple_of_16_or_the_context() -> None:
    pairs = encode_pairs([pair("x" * 20), pair("y" * 10)], TEMPLATE, 50)
    assert pair_batch(pairs[1:], 50).inputs.shape[2] == 32
    assert pair_batch(pairs, 50).inputs.shape[2] == 32
    long = encode_pairs([pair("x" * 42)], TEMPLATE, 50)
    assert long[0].length == 50
    assert pair_batch(long, 50).inputs.shape[2] == 50
    with pytest.raises(UserError, match="too long for the context"):
        encode_pairs([pair("x" * 43)], TEMPLATE, 50)


def test_long_conversations_lose_their_first_turns() -> None:
    system: Message = {"role": "system", "content": "s"}
    talk = (system, user("a" * 30), assistant("b" * 5), user("c" * 5), assistant("d"), user("e"))
    [found] = encode_pairs([pair("f", "g", *talk)], TEMPLATE, 32)
    assert shown(found.prompt) == "SsEUcccccEAdEUeEA"
    [found] = encode_pairs([pair("f", "g" * 14, *talk)], TEMPLATE, 24)
    assert shown(found.prompt) == "SsEUeEA"


def test_first_turn_is_everything_before_the_second_question() -> None:
    assert without_first_turn([user("a")]) is None
    assert without_first_turn([assistant("Hello."), user("a"), assistant("b"), user("c")]) == [user("c")]


@pytest.mark.parametrize(
    ("example", "reason"),
    [
        (pair("same", "same"), "with equal answers"),
        (pair("", "no"), "with an empty answer"),
        (pair("yes", " \n"), "with an empty answer"),
        (pair("yes", None), "without a prompt and two answers"),
        (Example((), "yes", "no"), "without a prompt and two answers"),
        (pair("x" * 100), "too long for the context"),
    ],
)
def test_unusable_pairs_are_left_out_and_counted(
    example: Example, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(encode_pairs([pair(), example, pair("a", "b")], TEMPLATE, 64)) == 2
    assert capsys.readouterr().err == f"warning: 1 pair of 3 left out: 1 {reason}\n"
    with pytest.raises(UserError, match=f"no pair to train on: 2 {reason}"):
        encode_pairs([example] * 2, TEMPLATE, 64)


def test_no_examples_are_refused() -> None:
    with pytest.raises(UserError, match="the data is empty"):
        encode_pairs([], TEMPLATE, 64)


texts = st.text(st.characters(codec="utf-8"), max_size=6)


@given(st.lists(texts, min_size=1, max_size=4), texts.filter(str.strip), texts.filter(str.strip))
def test_answers_are_what_the_template_writes(questions: list[str], chosen: str, rejected: str) -> None:
    talk = [message for text in questions for message in (user(text), assistant("ok"))][:-1]
    if chosen == rejected:
        return
    [found] = encode_pairs([Example(tuple(talk), chosen, rejected)], TEMPLATE, 512)
    batch = pair_batch([found], 512)
    for side, answer in enumerate((chosen, rejected)):
        targets, inputs = batch.targets[0, side], batch.inputs[0, side]
        counted = targets[targets != IGNORE].tolist()
        assert counted[-1] == END
        assert TOKENIZER.decode(counted[:-1]) == answer
        begin = int((targets != IGNORE).nonzero()[0])
        assert inputs[: begin + 1].tolist() == TEMPLATE.encode(talk)
        assert inputs[begin + 1 : begin + len(counted)].tolist() == counted[:-1]  # each target is the next input


CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_token_that_reaches_from_the_prompt_into_an_answer() -> None:
    """'t', two newlines and 'c' is more than one token, but the newlines are one: the template wrote the first."""
    trained = HFTokenizer.train(["assistant\n\n\n\ncat " * 50], 280, exact=False).to_json()
    size = len(trained["model"]["vocab"])
    added = added_tokens_json((size + i, token, True) for i, token in enumerate(("<|im_start|>", "<|im_end|>")))
    tokenizer = parse_tokenizer({**trained, "added_tokens": added}, "the test's")
    template = ChatTemplate(tokenizer, {"chat_template": CHATML, "eos_token": "<|im_end|>"})
    example = pair("\n\n\ncat", "cat")
    [found] = encode_pairs([example], template, 200)
    prompt = template.encode(example.messages)
    assert found.prompt.tolist() == prompt[: len(found.prompt)]
    assert len(found.prompt) < len(prompt)
    for ids, answer in ((found.chosen, "\n\n\ncat"), (found.rejected, "cat")):
        whole = template.encode([*example.messages, assistant(answer)], add_generation_prompt=False)
        assert [*found.prompt, *ids] == whole[:-1]  # without the newline after the end of the turn
        assert ids[-1] == size + 1


def test_answer_of_a_template_without_stop_tokens_ends_with_its_text() -> None:
    template = ChatTemplate(TOKENIZER, {"chat_template": "{% for m in messages %}{{ m.content }};{% endfor %}"})
    assert [shown(ids) for ids in encode_answer(template, [user("a")], "b")] == ["a;", "b;"]


def test_run_reads_no_more_examples_than_it_takes_samples() -> None:
    examples = [pair(f"{n}") for n in range(50)]
    few = drawn_examples(examples, TrainConfig(steps=3, batch=4, seed=1))
    assert len({each.chosen for each in few}) == len(few) == 12
    assert few == drawn_examples(examples, TrainConfig(steps=3, batch=4, seed=1))
    assert few != drawn_examples(examples, TrainConfig(steps=3, batch=4, seed=2))
    assert few != examples[:12]
    assert drawn_examples(examples, TrainConfig(steps=13, batch=4)) == examples


def numbered(count: int) -> PairReader:
    pairs = encode_pairs([pair(f"{n}", "no") for n in range(count)], TEMPLATE, 64)
    return PairReader(pairs, 64, seed=3, extra={"number": torch.arange(count)})


def test_reader_gives_each_pair_once_per_epoch_in_changing_order() -> None:
    read = numbered(10)
    first, second = read(0, 10).extra["number"].tolist(), read(10, 10).extra["number"].tolist()
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


@given(st.integers(0, 10**12), st.integers(1, 12))
def test_sample_depends_on_its_number_only(first: int, count: int) -> None:
    read = numbered(7)
    whole = read(first, count)
    n = random.Random(first).randrange(count)
    one = read(first + n, 1)
    assert one.extra["number"][0] == whole.extra["number"][n]
    assert torch.equal(one.targets[0], whole.targets[n])
    assert shown(one.targets[0, 0]).strip(".") == f"{int(one.extra['number'][0])}E"


def test_split_keeps_pairs_together() -> None:
    pieces = numbered(10)(0, 6).split(2)
    assert [piece.inputs.shape[:2] for piece in pieces] == [(2, 2)] * 3
    assert [len(piece.extra["number"]) for piece in pieces] == [2, 2, 2]
