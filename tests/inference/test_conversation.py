"""A conversation as token ids: with a chat template, as plain text, and when it no longer fits into the context."""

import pytest

from fledge.core.errors import UserError
from fledge.inference.conversation import Conversation, text_so_far
from fledge.tokenizers.base import parse_tokenizer
from fledge.tokenizers.char import CharTokenizer
from fledge.tokenizers.chat_template import CHAT_TOKENS, find_chat_template
from fledge.tokenizers.hf import HFTokenizer
from fledge.tokenizers.hf_json import added_tokens_json

CHAR = CharTokenizer("abcdefgh \n", special="<|endoftext|>")
TOKENS = added_tokens_json((256 + i, token, True) for i, token in enumerate(CHAT_TOKENS))
BYTES = parse_tokenizer({**HFTokenizer.train(["a"], 256, exact=False).to_json(), "added_tokens": TOKENS}, "the test's")


def plain(context: int = 100, answer_tokens: int = 10) -> Conversation:
    return Conversation(CHAR, None, context, answer_tokens)


def with_template(context: int = 100, answer_tokens: int = 10) -> Conversation:
    return Conversation(BYTES, find_chat_template(BYTES, {}), context, answer_tokens)


def shown(ids: list[int]) -> str:
    """Bytes as text, and the special tokens as S, U, A and E."""
    return "".join("SUAE"[i - 256] if i >= 256 else BYTES.decode([i]) for i in ids)


def test_plain_conversation_is_the_text_so_far() -> None:
    talk = plain()
    assert CHAR.decode(talk.ask("abc")) == "abc"
    talk.answer("de")
    assert CHAR.decode(talk.ask("f")) == "abcde\nf"
    talk.answer("g")
    assert CHAR.decode(talk.ask("")) == "abcde\nfg"


def test_plain_conversation_begins_like_a_document() -> None:
    assert plain().ask("") == [CHAR.end_of_text]
    assert text_so_far([]) == ""


def test_template_separates_the_messages() -> None:
    talk = with_template()
    talk.system = "be"
    assert shown(talk.ask("abc")) == "SbeEUabcEA"
    talk.answer("de")
    assert shown(talk.ask("f")) == "SbeEUabcEAdeEUfEA"


def test_oldest_turns_are_dropped_and_the_system_message_stays() -> None:
    talk = with_template(context=40, answer_tokens=10)
    talk.system = "be"
    for letter in "abcdefgh":
        ids = talk.ask(letter * 5)
        assert len(ids) <= 30
        assert shown(ids).startswith("SbeEU")
        assert shown(ids).endswith(f"U{letter * 5}EA")
        talk.answer("ok")
    assert talk.dropped == 12
    assert len(talk.messages) == 16


def test_plain_text_longer_than_the_context_keeps_its_end() -> None:
    talk = plain(context=10, answer_tokens=100)  # half of the context stays free
    assert CHAR.decode(talk.ask("abcdefgh")) == "defgh"
    talk.answer("a")
    assert CHAR.decode(talk.ask("bc")) == "ha\nbc"
    assert talk.dropped == 1  # not as a whole
    talk.answer("defg")
    assert CHAR.decode(talk.ask("")) == "cdefg"  # it goes on where it stopped
    talk.answer("abcdefgh")
    assert CHAR.decode(talk.ask("")) == "defgh"


def test_system_message_stays_before_plain_text() -> None:
    talk = plain(context=20, answer_tokens=10)
    talk.system = "be"
    assert CHAR.decode(talk.ask("abcd")) == "be\nabcd"
    talk.answer("efgh")
    assert CHAR.decode(talk.ask("")) == "be\nbcdefgh"


def test_message_taken_back_leaves_the_text_before_it() -> None:
    talk = plain(context=10, answer_tokens=100)
    talk.ask("ab")
    talk.answer("cd")
    assert CHAR.decode(talk.ask("fffffff")) == "fffff"
    talk.take_back()
    assert CHAR.decode(talk.ask("g")) == "cd\ng"


def test_message_that_cannot_fit_is_refused_and_forgotten() -> None:
    talk = with_template(context=20, answer_tokens=10)
    talk.ask("a")
    talk.answer("b")
    with pytest.raises(UserError, match="11 tokens, and the context of this model has room for 10"):
        talk.ask("c" * 8)
    assert [each["content"] for each in talk.messages] == ["a", "b"]


def test_unknown_character_leaves_the_conversation_as_it_was() -> None:
    talk = plain()
    with pytest.raises(UserError, match="'z'"):
        talk.ask("z")
    assert talk.messages == []


def test_message_without_an_answer_is_taken_back() -> None:
    talk = plain()
    talk.ask("a")
    talk.take_back()
    talk.reset()
    assert CHAR.decode(talk.ask("b")) == "b"
