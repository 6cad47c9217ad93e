"""Byte-level BPE: any text, frequent pieces."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.errors import UserError
from fledge.tokenizers.base import END_OF_TEXT, byte_lengths, fingerprint, load_tokenizer, save_tokenizer
from fledge.tokenizers.hf import HFTokenizer
from fledge.tokenizers.streaming import TextStreamer

TEXT = "Once upon a time there was a duck, and the duck could write. " * 20
BPE = HFTokenizer.train([TEXT], 280, END_OF_TEXT)


@given(st.text())
def test_any_text_in_any_language_comes_back_unchanged(text: str) -> None:
    ids = BPE.encode(text)
    assert BPE.decode(ids) == text
    assert b"".join(BPE.id_to_bytes(i) for i in ids) == text.encode()


@given(st.text())
def test_a_stream_of_its_tokens_never_shows_half_a_character(text: str) -> None:
    stream, ids = TextStreamer(BPE), BPE.encode(text)
    said = [stream.add(i) for i in ids]
    assert "".join(said) + stream.end() == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in said)


def test_a_text_that_spells_the_special_token_is_plain_text() -> None:
    ids = BPE.encode(f"a{END_OF_TEXT}b")
    assert BPE.end_of_text not in ids
    assert BPE.decode(ids) == f"a{END_OF_TEXT}b"


def test_the_end_of_text_says_nothing() -> None:
    assert BPE.end_of_text is not None
    assert BPE.id_to_bytes(BPE.end_of_text) == b""
    assert BPE.decode([BPE.end_of_text]) == ""


def test_a_saved_tokenizer_comes_back_the_same(tmp_path: Path) -> None:
    save_tokenizer(BPE, tmp_path / "tokenizer.json")
    back = load_tokenizer(tmp_path / "tokenizer.json")
    assert (back.kind, back.vocab_size, back.end_of_text) == ("bpe", 280, BPE.end_of_text)
    assert (
        back.encode(f"{TEXT} naïve 🦆 {END_OF_TEXT}").tolist() == BPE.encode(f"{TEXT} naïve 🦆 {END_OF_TEXT}").tolist()
    )
    assert fingerprint(back) == fingerprint(BPE)


def test_training_again_gives_the_same_tokenizer() -> None:
    assert HFTokenizer.train([TEXT], 280, END_OF_TEXT).to_json() == BPE.to_json()


def test_frequent_pieces_are_one_token() -> None:
    assert len(BPE.encode(TEXT)) < len(TEXT) / 2


def test_the_bytes_of_all_tokens_are_counted() -> None:
    ids = BPE.encode(TEXT)
    assert byte_lengths(BPE)[ids].sum() == len(TEXT.encode())


@pytest.mark.parametrize(("vocab_size", "named"), [(256, "256"), (2, "2"), (100_000, "100000")])
def test_a_vocabulary_too_small_for_bytes_or_too_large_for_the_text_is_refused(vocab_size: int, named: str) -> None:
    with pytest.raises(UserError, match=named):
        HFTokenizer.train([TEXT], vocab_size, END_OF_TEXT)
