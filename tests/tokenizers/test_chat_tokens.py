"""Chat tokens added to tokenizers of every kind: new ids, no text encodes to them, and they are never shown."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokenizers as library
from fledge.core.errors import UserError
from fledge.tokenizers.base import Tokenizer, fingerprint, load_tokenizer, parse_tokenizer, save_tokenizer
from fledge.tokenizers.bpe import BpeTokenizer
from fledge.tokenizers.char import CharTokenizer
from fledge.tokenizers.chat_template import CHAT_TOKENS, add_chat_tokens, find_chat_template
from fledge.tokenizers.gpt2 import load_gpt2
from fledge.tokenizers.hf import HFTokenizer
from fledge.tokenizers.hf_json import added_tokens_json
from fledge.tokenizers.streaming import TextStreamer

END = "<|endoftext|>"
TEXT = "The duck said: <|user|> and <|end|> are only words, naïve! <|system|> <|assistant|> \n 12345 ü 🦆 " * 9
MESSAGES = [{"role": "user", "content": "The duck!"}, {"role": "assistant", "content": "<|end|>"}]


def unigram() -> Tokenizer:
    pieces = [["<unk>", 0.0], *([c, -2.0] for c in sorted(set(TEXT) - {" "})), ["▁", -2.0], ["▁duck", -1.0]]
    content = library.Tokenizer(library.models.Unigram([("<unk>", 0.0)], 0, byte_fallback=False)).to_str()
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True}
    filled = {**json.loads(content), "pre_tokenizer": metaspace, "decoder": metaspace}
    filled["model"]["vocab"] = pieces
    return parse_tokenizer(filled, "the test's")


def with_gap() -> Tokenizer:
    """Ids 300 to 309 have no token."""
    content = HFTokenizer.train([TEXT], 299, exact=False).to_json()
    content["model"]["vocab"]["<|endoftext|>"] = 310
    return parse_tokenizer({**content, "added_tokens": added_tokens_json([(310, END, True)])}, "the test's")


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "char": lambda: CharTokenizer.train([TEXT], special=END),
    "char without end": lambda: CharTokenizer.train([TEXT]),
    "char that maps": lambda: CharTokenizer.train([TEXT], unknown="map"),
    "bpe from scratch": lambda: BpeTokenizer.train([TEXT], 300, END),
    "bpe": lambda: HFTokenizer.train([TEXT], 300, END),
    "bpe without end": lambda: HFTokenizer.train([TEXT], 300),
    "bpe with another end": lambda: HFTokenizer.train([TEXT], 300, "<stop>"),
    "gpt4 pattern": lambda: HFTokenizer.train([TEXT], 300, END, pattern="gpt4"),
    "a gap in the ids": with_gap,
    "unigram": unigram,
}
MADE = {name: (make(), add_chat_tokens(make())) for name, make in KINDS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_chat_tokens_get_the_next_ids(kind: str, tmp_path: Path) -> None:
    old, new = MADE[kind]
    assert new.vocab_size == old.vocab_size + 4
    assert new.end_of_text == old.end_of_text
    assert new.encode(TEXT).tolist() == old.encode(TEXT).tolist()
    template = find_chat_template(new, {})
    assert template is not None
    ids = template.encode(MESSAGES)
    first = old.vocab_size
    assert [i - first for i in ids if i >= first] == [1, 3, 2, 3, 2]
    assert template.stop_tokens == (first + 3,)
    save_tokenizer(new, tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert fingerprint(loaded) == fingerprint(new) != fingerprint(old)
    assert loaded.end_of_text == old.end_of_text
    by_library = library.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [by_library.token_to_id(name) for name in CHAT_TOKENS] == [first + i for i in range(4)]


@pytest.mark.parametrize("kind", KINDS)
def test_adding_them_again_changes_nothing(kind: str) -> None:
    _, new = MADE[kind]
    assert add_chat_tokens(new) is new


PIECES = [*CHAT_TOKENS, END, "<|", "|>", "user", "<stop>", "<unk>", " ", "\n", "The duck", "<|endof"]


@pytest.mark.parametrize("kind", KINDS)
@given(parts=st.lists(st.sampled_from(PIECES), max_size=8))
def test_no_text_encodes_to_a_chat_token(kind: str, parts: list[str]) -> None:
    old, new = MADE[kind]
    text = "".join(parts)
    try:
        ids = new.encode(text)
    except UserError:
        assert "char" in kind  # a character that the training text lacks
        return
    assert all(i < old.vocab_size for i in ids)
    assert ids.tolist() == old.encode(text).tolist()
    assert new.decode(ids) == old.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_chat_tokens_are_never_shown(kind: str) -> None:
    old, new = MADE[kind]
    first, duck = old.vocab_size, [int(i) for i in new.encode("duck")]
    ids = [first, *duck, first + 3, first + 1, *duck, first + 2]
    streamer = TextStreamer(new)
    shown = "".join(streamer.add(i) for i in ids) + streamer.end()
    assert shown.replace(" ", "") == "duckduck"
    assert new.decode(ids).replace(" ", "") == "duckduck"
    assert all(new.id_to_bytes(first + i) == b"" for i in range(4))


def test_missing_ones_are_added_beside_those_that_are_there() -> None:
    content = HFTokenizer.train([TEXT], 300, END).to_json()
    content["added_tokens"] += added_tokens_json([(300, "<|end|>", True)])
    new = add_chat_tokens(parse_tokenizer(content, "the test's"))
    added = {token["content"]: token["id"] for token in new.to_json()["added_tokens"]}
    assert added == {END: 0, "<|end|>": 300, "<|system|>": 301, "<|user|>": 302, "<|assistant|>": 303}


@pytest.mark.parametrize("where", ["added", "vocabulary"])
def test_name_that_is_ordinary_text_is_refused(where: str) -> None:
    content: dict[str, Any] = HFTokenizer.train([TEXT], 300, END).to_json()
    if where == "added":
        content["added_tokens"] += added_tokens_json([(300, "<|user|>", False)])
    else:
        content["model"]["vocab"]["<|user|>"] = 300
    with pytest.raises(UserError, match=r"has '<\|user\|>' as ordinary text"):
        add_chat_tokens(parse_tokenizer(content, "the test's"))


def test_gpt2_keeps_its_ids(data: Path) -> None:
    old = load_gpt2([data / "gpt2"])
    new = add_chat_tokens(old)
    assert (old.vocab_size, new.vocab_size, new.end_of_text) == (50257, 50261, 50256)
    text = TEXT * 40  # long enough for the fast encoder
    assert new.encode(text).tolist() == old.encode(text).tolist()


def test_end_of_text_needs_a_usual_name_beside_others() -> None:
    """One of several special tokens with unusual names is not taken for the end of a text."""
    content = HFTokenizer.train([TEXT], 300, "<stop>").to_json()
    content["added_tokens"] += added_tokens_json([(300, "<start>", True)])
    assert parse_tokenizer(content, "the test's").end_of_text is None
