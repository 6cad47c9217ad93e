"""Byte-level BPE from scratch, judged by the `tokenizers` library."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenizers as hf
from fledge.core.errors import UserError
from fledge.tokenizers import byte_level
from fledge.tokenizers.base import END_OF_TEXT, encode_with_end_of_text, save_tokenizer
from fledge.tokenizers.bpe import BpeTokenizer
from fledge.tokenizers.byte_level import unicode_to_bytes
from fledge.tokenizers.hf import HFTokenizer
from fledge.tokenizers.patterns import PATTERNS, split_regex
from fledge.tokenizers.streaming import TextStreamer
from tokenizers import models, pre_tokenizers, trainers

TEXT = "Once upon a time there was a duck, and the duck could write. " * 20
BPE = BpeTokenizer.train([TEXT], 280, END_OF_TEXT)
FEW = st.text(alphabet="ab ", max_size=80)
# What patterns treat apart: contractions, spaces of every kind, digits, newlines, marks, old separators.
SIGNS = st.text(alphabet="'sStTdmLl ſ \t\n\r\x0b\x1c\x85\xa0\u2003\u3000aé\u0301Я中🦆0١½_!<|>\0\ufeff")


def trained_by_the_library(texts: list[str], vocab_size: int, special: str | None, pattern: str) -> hf.Tokenizer:
    shape = hf.Tokenizer.from_str(json.dumps(byte_level.bpe_json({}, [], None, pattern)))
    library = hf.Tokenizer(models.BPE())
    library.pre_tokenizer, library.decoder = shape.pre_tokenizer, shape.decoder
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
def test_it_learns_what_the_library_learns_from_real_text(
    real_text: Callable[[str], str], corpus: str, pattern: str
) -> None:
    text = real_text(corpus)
    ours = BpeTokenizer.train([text], 3000, END_OF_TEXT, pattern=pattern)
    theirs = trained_by_the_library([text], 3000, END_OF_TEXT, pattern)
    assert ours.to_json() == json.loads(theirs.to_str())
    assert ours.encode(text[:200_000]).tolist() == theirs.encode(text[:200_000]).ids


@settings(max_examples=300)
@given(st.lists(FEW, max_size=4), st.integers(0, 60), st.booleans(), st.sampled_from([*PATTERNS]))
def test_it_learns_what_the_library_learns_where_everything_is_a_tie(
    texts: list[str], merges: int, ends: bool, pattern: str
) -> None:
    special = END_OF_TEXT if ends else None
    size = 256 + ends + merges
    ours = BpeTokenizer.train(texts, size, special, pattern=pattern, exact=False)
    theirs = trained_by_the_library(texts, size, special, pattern)
    assert ours.to_json() == json.loads(theirs.to_str())
    for text in texts:
        assert ours.encode(text).tolist() == theirs.encode(text).ids


@settings(max_examples=300)
@given(st.lists(SIGNS, max_size=4), st.text(), st.sampled_from([*PATTERNS]))
def test_it_learns_and_encodes_as_the_library_does_in_any_script(texts: list[str], other: str, pattern: str) -> None:
    ours = BpeTokenizer.train(texts, 290, END_OF_TEXT, pattern=pattern, exact=False)
    theirs = trained_by_the_library(texts, 290, END_OF_TEXT, pattern)
    assert ours.to_json() == json.loads(theirs.to_str())
    for text in (*texts, other):
        assert ours.encode(text).tolist() == theirs.encode(text).ids


@pytest.mark.parametrize("pattern", PATTERNS)
@given(text=st.text() | SIGNS)
def test_the_chunks_of_a_text_are_the_text(pattern: str, text: str) -> None:
    assert "".join(split_regex(pattern).findall(text)) == text


def test_the_patterns_cut_as_their_models_do() -> None:
    assert split_regex("gpt2").findall("It's 123  new\n\nx") == ["It", "'s", " 123", " ", " new", "\n", "\n", "x"]
    assert split_regex("gpt4").findall("IT'S 12345\n\nx") == ["IT", "'S", " ", "123", "45", "\n\n", "x"]


@given(st.text())
def test_any_text_in_any_language_comes_back_unchanged(text: str) -> None:
    ids = BPE.encode(text)
    assert BPE.decode(ids) == text
    assert b"".join(BPE.id_to_bytes(i) for i in ids) == text.encode()


@pytest.mark.parametrize("text", ["\0", "a\0b", "\ufeffmark", "one\r\ntwo\r\n", "\r", "\x85\x1c", "", "\U0010ffff"])
def test_odd_text_comes_back_unchanged(text: str) -> None:
    assert BPE.decode(BPE.encode(text)) == text


def test_a_lone_surrogate_is_read_as_the_replacement_character_and_a_pair_as_what_it_means() -> None:
    assert BPE.decode(BPE.encode("a\ud800b\udfff")) == "a\ufffdb\ufffd"
    assert BPE.decode(BPE.encode("\ud83e\udd86")) == "🦆"
    assert BpeTokenizer.train(["a\ud800b"], 257, exact=False).vocab_size == 257


@given(st.text())
def test_a_stream_of_its_tokens_never_shows_half_a_character(text: str) -> None:
    stream = TextStreamer(BPE)
    said = [stream.add(int(i)) for i in BPE.encode(text)]
    assert "".join(said) + stream.end() == text


@pytest.mark.parametrize("text", ["a" * 200_000, " " * 200_000 + "x", "\n" * 200_000, "ab" * 100_000])
def test_one_endless_chunk_is_encoded_as_the_library_encodes_it(text: str) -> None:
    made = BpeTokenizer.train([text[:3000], TEXT], 300, END_OF_TEXT, exact=False)
    library = hf.Tokenizer.from_str(json.dumps(made.to_json()))
    assert made.encode(text).tolist() == library.encode(text).ids


def test_a_text_that_spells_the_special_token_is_plain_text() -> None:
    ids = BPE.encode(f"a{END_OF_TEXT}b")
    assert BPE.end_of_text not in ids
    assert BPE.decode(ids) == f"a{END_OF_TEXT}b"


def test_a_mark_that_is_meant_becomes_the_special_token() -> None:
    ids = encode_with_end_of_text(BPE, f"a{END_OF_TEXT}{END_OF_TEXT}duck")
    end = BPE.end_of_text
    assert ids.tolist() == [*BPE.encode("a"), end, end, *BPE.encode("duck")]
    with pytest.raises(UserError, match="end-of-text"):
        encode_with_end_of_text(BpeTokenizer.train([TEXT], 256), "a")


@pytest.mark.parametrize("special", [None, END_OF_TEXT])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_file_is_the_same_to_the_byte_as_the_fast_one(tmp_path: Path, special: str | None, pattern: str) -> None:
    save_tokenizer(BpeTokenizer.train([TEXT], 290, special, pattern=pattern), tmp_path / "here.json")
    save_tokenizer(HFTokenizer.train([TEXT], 290, special, pattern=pattern), tmp_path / "fast.json")
    assert (tmp_path / "here.json").read_bytes() == (tmp_path / "fast.json").read_bytes()


@pytest.mark.parametrize("special", [None, END_OF_TEXT])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_saved_tokenizer_comes_back_the_same(special: str | None, pattern: str) -> None:
    made = BpeTokenizer.train([TEXT], 290, special, pattern=pattern)
    back = BpeTokenizer.from_json(json.loads(json.dumps(made.to_json())))
    assert back.to_json() == made.to_json()
    assert (back.pieces, back.end_of_text, back.pattern) == (made.pieces, made.end_of_text, made.pattern)


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
def test_a_file_of_another_kind_is_refused(change: Callable[[object], object]) -> None:
    content = BPE.to_json()
    change(content)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        BpeTokenizer.from_json(content)


@pytest.mark.parametrize(("vocab_size", "named"), [(256, "256"), (2, "2"), (100_000, "100000")])
def test_a_vocabulary_too_small_for_bytes_or_too_large_for_the_text_is_refused(vocab_size: int, named: str) -> None:
    with pytest.raises(UserError, match=named):
        BpeTokenizer.train([TEXT], vocab_size, END_OF_TEXT)


@pytest.mark.parametrize("token", [-1, 280, 2**40])
def test_an_id_outside_the_vocabulary_is_refused(token: int) -> None:
    for act in (lambda: BPE.id_to_bytes(token), lambda: BPE.decode([5, token])):
        with pytest.raises(UserError, match=f"no token {token} in a vocabulary of 280"):
            act()


def test_no_text_teaches_nothing_but_bytes() -> None:
    made = BpeTokenizer.train([], 300, exact=False)
    assert made.vocab_size == 256
    assert made.decode(made.encode("duck")) == "duck"


def test_many_texts_are_encoded_each_by_itself() -> None:
    texts = [TEXT, "", "x"]
    assert [ids.tolist() for ids in BPE.encode_batch(texts)] == [BPE.encode(text).tolist() for text in texts]


def test_every_byte_has_one_sign() -> None:
    assert sorted(unicode_to_bytes().values()) == list(range(256))
