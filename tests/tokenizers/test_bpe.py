"""Byte-level BPE from scratch, checked against the `tokenizers` library."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenizers as hf
from fledge.core.errors import UserError
from fledge.tokenizers import byte_level
from fledge.tokenizers.base import END_OF_TEXT, save_tokenizer
from fledge.tokenizers.bpe import BpeTokenizer
from fledge.tokenizers.byte_level import unicode_to_bytes
from fledge.tokenizers.hf import HFTokenizer
from fledge.tokenizers.patterns import PATTERNS, split_regex
from fledge.tokenizers.streaming import TextStreamer
from tokenizers import models, pre_tokenizers, trainers

TEXT = "Once upon a time there was a duck, and the duck could write. " * 20
BPE = BpeTokenizer.train([TEXT], 280, END_OF_TEXT)
FEW_LETTERS = st.text(alphabet="ab ", max_size=80)
# What the patterns treat differently: contractions, spaces of every kind, digits, newlines, marks, old separators.
PATTERN_CHARACTERS = st.text(alphabet="'sStTdmLl ſ \t\n\r\x0b\x1c\x85\xa0\u2003\u3000aé\u0301Я中🦆0١½_!<|>\0\ufeff")


def train_with_library(texts: list[str], vocab_size: int, special: str | None, pattern: str) -> hf.Tokenizer:
    empty = hf.Tokenizer.from_str(json.dumps(byte_level.bpe_json({}, [], None, pattern)))
    library = hf.Tokenizer(models.BPE())
    library.pre_tokenizer, library.decoder = empty.pre_tokenizer, empty.decoder
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[special] if special else [],
    )
    library.train_from_iterator(texts, trainer)
    library.encode_special_tokens = True
    return library


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("corpus", ["shakespeare", "wikitext", "python"])
def test_merges_of_real_text_equal_the_library(real_text: Callable[[str], str], corpus: str, pattern: str) -> None:
    text = real_text(corpus)
    ours = BpeTokenizer.train([text], 3000, END_OF_TEXT, pattern=pattern)
    theirs = train_with_library([text], 3000, END_OF_TEXT, pattern)
    assert ours.to_json() == json.loads(theirs.to_str())
    assert ours.encode(text[:200_000]).tolist() == theirs.encode(text[:200_000]).ids


@settings(max_examples=300)
@given(st.lists(FEW_LETTERS, max_size=4), st.integers(0, 60), st.booleans(), st.sampled_from([*PATTERNS]))
def test_merges_with_many_ties_equal_the_library(texts: list[str], merges: int, has_end: bool, pattern: str) -> None:
    special = END_OF_TEXT if has_end else None
    size = 256 + has_end + merges
    ours = BpeTokenizer.train(texts, size, special, pattern=pattern, exact=False)
    theirs = train_with_library(texts, size, special, pattern)
    assert ours.to_json() == json.loads(theirs.to_str())
    for text in texts:
        assert ours.encode(text).tolist() == theirs.encode(text).ids


@settings(max_examples=300)
@given(st.lists(PATTERN_CHARACTERS, max_size=4), st.text(), st.sampled_from([*PATTERNS]))
def test_merges_and_ids_of_any_script_equal_the_library(texts: list[str], other: str, pattern: str) -> None:
    ours = BpeTokenizer.train(texts, 290, END_OF_TEXT, pattern=pattern, exact=False)
    theirs = train_with_library(texts, 290, END_OF_TEXT, pattern)
    assert ours.to_json() == json.loads(theirs.to_str())
    for text in (*texts, other):
        assert ours.encode(text).tolist() == theirs.encode(text).ids


@pytest.mark.parametrize("pattern", PATTERNS)
@given(text=st.text() | PATTERN_CHARACTERS)
def test_chunks_cover_the_whole_text(pattern: str, text: str) -> None:
    assert "".join(split_regex(pattern).findall(text)) == text


def test_patterns_split_as_gpt2_and_gpt4_do() -> None:
    assert split_regex("gpt2").findall("It's 123  new\n\nx") == ["It", "'s", " 123", " ", " new", "\n", "\n", "x"]
    assert split_regex("gpt4").findall("IT'S 12345\n\nx") == ["IT", "'S", " ", "123", "45", "\n\n", "x"]


@given(st.text())
def test_decode_inverts_encode(text: str) -> None:
    ids = BPE.encode(text)
    assert BPE.decode(ids) == text
    assert b"".join(BPE.id_to_bytes(i) for i in ids) == text.encode()


@pytest.mark.parametrize("text", ["\0", "a\0b", "\ufeffmark", "one\r\ntwo\r\n", "\r", "\x85\x1c", "", "\U0010ffff"])
def test_decode_inverts_encode_on_control_characters(text: str) -> None:
    assert BPE.decode(BPE.encode(text)) == text


def test_surrogate_pairs_are_joined_and_lone_ones_replaced() -> None:
    assert BPE.decode(BPE.encode("a\ud800b\udfff")) == "a\ufffdb\ufffd"
    assert BPE.decode(BPE.encode("\ud83e\udd86")) == "🦆"
    assert BpeTokenizer.train(["a\ud800b"], 257, exact=False).vocab_size == 257


@given(st.text())
def test_streamed_text_equals_the_text(text: str) -> None:
    stream = TextStreamer(BPE)
    parts = [stream.add(int(i)) for i in BPE.encode(text)]
    assert "".join(parts) + stream.end() == text


@pytest.mark.parametrize("text", ["a" * 200_000, " " * 200_000 + "x", "\n" * 200_000, "ab" * 100_000])
def test_ids_of_a_very_long_chunk_equal_the_library(text: str) -> None:
    made = BpeTokenizer.train([text[:3000], TEXT], 300, END_OF_TEXT, exact=False)
    library = hf.Tokenizer.from_str(json.dumps(made.to_json()))
    assert made.encode(text).tolist() == library.encode(text).ids


def test_special_token_in_a_text_is_plain_text() -> None:
    ids = BPE.encode(f"a{END_OF_TEXT}b")
    assert BPE.end_of_text not in ids
    assert BPE.decode(ids) == f"a{END_OF_TEXT}b"


@pytest.mark.parametrize("special", [None, END_OF_TEXT])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_file_equals_that_of_the_library_trainer(tmp_path: Path, special: str | None, pattern: str) -> None:
    save_tokenizer(BpeTokenizer.train([TEXT], 290, special, pattern=pattern), tmp_path / "scratch.json")
    save_tokenizer(HFTokenizer.train([TEXT], 290, special, pattern=pattern), tmp_path / "library.json")
    assert (tmp_path / "scratch.json").read_bytes() == (tmp_path / "library.json").read_bytes()


@pytest.mark.parametrize("special", [None, END_OF_TEXT])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_from_json_inverts_to_json(special: str | None, pattern: str) -> None:
    made = BpeTokenizer.train([TEXT], 290, special, pattern=pattern)
    back = BpeTokenizer.from_json(json.loads(json.dumps(made.to_json())))
    assert back.to_json() == made.to_json()
    assert (back.tokens, back.end_of_text, back.pattern) == (made.tokens, made.end_of_text, made.pattern)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.clear(),
        lambda content: content.update(model=[]),
        lambda content: content.update(pre_tokenizer=None),
        lambda content: content.update(normalizer={"type": "NFC"}),
        lambda content: content["model"].update(byte_fallback=True),
        lambda content: content["model"].update(vocab={"a": 0}),
        lambda content: content["model"]["vocab"].update({"▁": 280}),
        lambda content: content["model"]["vocab"].update({"!": 9999}),
        lambda content: content["model"]["merges"].append(["no", "such"]),
        lambda content: content["model"]["merges"].append(["Ġ"]),
        lambda content: content["added_tokens"].append({}),
    ],
    ids=range(11),
)
def test_from_json_refuses_other_files(change: Callable[[object], object]) -> None:
    content = BPE.to_json()
    change(content)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        BpeTokenizer.from_json(content)


@pytest.mark.parametrize(("vocab_size", "named"), [(256, "256"), (2, "2"), (100_000, "100000")])
def test_impossible_vocab_size_is_refused(vocab_size: int, named: str) -> None:
    with pytest.raises(UserError, match=named):
        BpeTokenizer.train([TEXT], vocab_size, END_OF_TEXT)


@pytest.mark.parametrize("token", [-1, 280, 2**40])
def test_id_outside_the_vocabulary_is_refused(token: int) -> None:
    for act in (lambda: BPE.id_to_bytes(token), lambda: BPE.decode([5, token])):
        with pytest.raises(UserError, match=f"no token {token} in a vocabulary of 280"):
            act()


def test_training_on_no_text_gives_only_bytes() -> None:
    made = BpeTokenizer.train([], 300, exact=False)
    assert made.vocab_size == 256
    assert made.decode(made.encode("duck")) == "duck"


@pytest.mark.parametrize("regex", [r"\p{L}+|\P{L}+", r".|\n"])
def test_file_of_a_further_pattern_keeps_its_regex(monkeypatch: pytest.MonkeyPatch, regex: str) -> None:
    monkeypatch.setitem(PATTERNS, "further", regex)
    split_regex.cache_clear()
    made = BpeTokenizer.train([TEXT], 280, pattern="further", exact=False)
    content = made.to_json()
    assert content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] == regex
    back = BpeTokenizer.from_json(content)
    assert (back.pattern, back.encode(TEXT).tolist()) == ("further", made.encode(TEXT).tolist())
    assert hf.Tokenizer.from_str(json.dumps(content)).encode(TEXT).ids == made.encode(TEXT).tolist()
    for name in ("gpt2", "gpt4"):
        assert BpeTokenizer.from_json(BpeTokenizer.train([TEXT], 280, pattern=name).to_json()).pattern == name
    split_regex.cache_clear()


def test_every_byte_has_one_character() -> None:
    assert sorted(unicode_to_bytes().values()) == list(range(256))
