"""One token per character."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokenizers as hf
from fledge.core.errors import UserError
from fledge.tokenizers.base import END_OF_TEXT, byte_lengths, fingerprint, load_tokenizer, save_tokenizer
from fledge.tokenizers.char import REPLACEMENT, CharTokenizer

TEXT = "He said <|endoftext|> aloud: 'naïve 🦆'\r\n"


def reference(tokenizer: CharTokenizer) -> hf.Tokenizer:
    """The same file, loaded by the `tokenizers` library."""
    return hf.Tokenizer.from_str(json.dumps(tokenizer.to_json()))


@given(st.text(), st.text())
def test_decode_inverts_encode_on_training_text(first: str, second: str) -> None:
    made = CharTokenizer.train([first, second, "x"])
    for text in (first, second, first + second):
        assert made.decode(made.encode(text)) == text


def test_ids_follow_the_sorted_vocabulary() -> None:
    made = CharTokenizer.train(["hello"])
    assert made.characters == ["e", "h", "l", "o"]
    assert made.encode("hello").tolist() == [1, 0, 2, 2, 3]
    assert made.encode("hello").dtype == np.uint32


def test_empty_text_gives_no_ids() -> None:
    made = CharTokenizer.train(["a"])
    assert made.encode("").tolist() == []
    assert made.decode([]) == ""


@given(st.text(alphabet="ab\n", max_size=30), st.text(alphabet="ab\nzé🦆", max_size=10))
def test_unknown_character_is_refused_with_its_position(head: str, tail: str) -> None:
    made = CharTokenizer.train(["ab\n"])
    with pytest.raises(UserError) as caught:
        made.encode(head + "Ω" + tail)
    assert f"'Ω' (U+03A9) at position {len(head)} (line {head.count(chr(10)) + 1})" in caught.value.message


def test_error_does_not_print_control_characters() -> None:
    with pytest.raises(UserError) as caught:
        CharTokenizer.train(["a"]).encode("a\x1b[2J")
    assert caught.value.message.isprintable()


@given(st.text(), st.text())
def test_unknown_characters_are_mapped_to_the_replacement(made_from: str, text: str) -> None:
    made = CharTokenizer.train([made_from, "x"], unknown="map")
    expected = "".join(c if c in made_from + "x" else REPLACEMENT for c in text)
    assert made.decode(made.encode(text)) == expected


def test_limited_vocabulary_keeps_frequent_characters() -> None:
    made = CharTokenizer.train(["aaaabbbccd"], vocab_size=3, unknown="map")
    assert made.characters == ["a", "b", REPLACEMENT]
    assert made.vocab_size == 3


def test_ties_in_frequency_go_to_the_lower_code_point() -> None:
    made = CharTokenizer.train(["dcba"], vocab_size=3, unknown="map")
    assert made.characters == ["a", "b", REPLACEMENT]


@pytest.mark.parametrize(("special", "enough"), [(None, 3), (END_OF_TEXT, 4)])
def test_too_small_vocabulary_is_refused_unless_mapping(special: str | None, enough: int) -> None:
    assert CharTokenizer.train(["abc"], enough, special=special).vocab_size == enough
    with pytest.raises(UserError, match="3 different characters"):
        CharTokenizer.train(["abc"], enough - 1, special=special)
    assert CharTokenizer.train(["abc"], enough - 1, "map", special).vocab_size == enough - 1


@pytest.mark.parametrize(("vocab_size", "special"), [(1, None), (2, END_OF_TEXT)])
def test_vocabulary_without_room_for_characters_is_refused(vocab_size: int, special: str | None) -> None:
    with pytest.raises(UserError, match="holds no characters"):
        CharTokenizer.train(["abc"], vocab_size, "map", special)


def test_vocabulary_is_no_larger_than_the_text_needs() -> None:
    assert CharTokenizer.train(["abc"], vocab_size=100).vocab_size == 3


@given(st.text())
def test_bytes_of_tokens_add_up_to_the_text(text: str) -> None:
    made = CharTokenizer.train([text, "x"], special=END_OF_TEXT)
    ids = made.encode(text)
    assert b"".join(made.id_to_bytes(i) for i in ids) == text.encode()
    assert byte_lengths(made)[ids].sum() == len(text.encode())


def test_end_of_text_is_the_last_id_and_decodes_to_nothing() -> None:
    made = CharTokenizer.train(["abc"], special=END_OF_TEXT)
    assert made.end_of_text == 3
    assert made.vocab_size == 4
    assert made.decode([0, 3, 1]) == "ab"
    assert made.id_to_bytes(3) == b""


def test_without_special_token_there_is_no_end_of_text() -> None:
    assert CharTokenizer.train(["abc"]).end_of_text is None


def test_special_token_in_a_text_is_plain_text() -> None:
    made = CharTokenizer.train([TEXT], special=END_OF_TEXT)
    ids = made.encode(TEXT)
    assert len(ids) == len(TEXT)
    assert made.end_of_text not in ids
    assert made.decode(ids) == TEXT


def test_special_token_of_unknown_characters_is_refused() -> None:
    with pytest.raises(UserError, match=r"'<' .* position 1"):
        CharTokenizer.train(["abc"], special=END_OF_TEXT).encode("a" + END_OF_TEXT)


@pytest.mark.parametrize("unknown", ["refuse", "map"])
@pytest.mark.parametrize("special", [None, END_OF_TEXT])
def test_load_inverts_save(tmp_path: Path, unknown: str, special: str | None) -> None:
    made = CharTokenizer.train([TEXT], unknown=unknown, special=special)
    save_tokenizer(made, tmp_path / "tokenizer.json")
    back = load_tokenizer(tmp_path / "tokenizer.json")
    assert isinstance(back, CharTokenizer)
    assert back.to_json() == made.to_json()
    assert fingerprint(back) == fingerprint(made)
    assert back.encode(TEXT).tolist() == made.encode(TEXT).tolist()
    assert (back.end_of_text, back.maps_unknown) == (made.end_of_text, made.maps_unknown)


@given(st.text(), st.booleans())
def test_ids_and_text_equal_the_library(text: str, has_end: bool) -> None:
    made = CharTokenizer.train([text, "x"], special=END_OF_TEXT if has_end else None)
    theirs = reference(made)
    ids = theirs.encode(text, add_special_tokens=False).ids
    assert ids == made.encode(text).tolist()
    assert theirs.decode(ids) == text
    assert theirs.get_vocab_size() == made.vocab_size


@given(st.text(alphabet="abcxyzé🦆\n"))
def test_mapped_ids_equal_the_library(text: str) -> None:
    made = CharTokenizer.train(["abc\n"], unknown="map")
    assert reference(made).encode(text).ids == made.encode(text).tolist()


def test_library_refuses_unknown_characters_too() -> None:
    made = CharTokenizer.train(["abc"])
    with pytest.raises(Exception, match="UNK"):
        reference(made).encode("abcd")


def test_end_of_text_id_equals_the_library() -> None:
    made = CharTokenizer.train(["abc"], special=END_OF_TEXT)
    assert reference(made).token_to_id(END_OF_TEXT) == made.end_of_text
    assert reference(made).decode([0, 3, 1]) == made.decode([0, 3, 1])


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.clear(),
        lambda content: content.update(model=[]),
        lambda content: content.update(model={"type": "BPE"}),
        lambda content: content.update(model={"type": "WordLevel"}),
        lambda content: content.pop("added_tokens"),
        lambda content: content.update(added_tokens=[{}]),
        lambda content: content["model"].update(vocab=["a", "b"]),
        lambda content: content["model"].update(vocab={"a": 0, "b": 2}),
        lambda content: content["model"].update(vocab={"a": 0, "b": 0}),
        lambda content: content["model"].update(vocab={"a": 0, "word": 1}),
        lambda content: content["model"].update(vocab={"a": 0, "b": "1"}),
        lambda content: content["model"].update(vocab={}),
        lambda content: content["model"].update(unk_token=REPLACEMENT),
        lambda content: content["model"].pop("unk_token"),
    ],
    ids=range(14),
)
def test_load_refuses_other_files_by_name(tmp_path: Path, change: object) -> None:
    content = CharTokenizer.train(["ab"]).to_json()
    change(content)  # type: ignore[operator]
    (tmp_path / "odd.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"odd\.json"):
        load_tokenizer(tmp_path / "odd.json")
