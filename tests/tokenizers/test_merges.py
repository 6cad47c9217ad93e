"""Merges one by one, checked against the `tokenizers` library; the split of a text; the vocabulary as a table."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenizers as hf
from fledge.core.errors import UserError
from fledge.tokenizers.base import END_OF_TEXT, Tokenizer, parse_tokenizer
from fledge.tokenizers.bpe import BpeTokenizer
from fledge.tokenizers.byte_level import bpe_json
from fledge.tokenizers.char import CharTokenizer
from fledge.tokenizers.merges import MergeTable
from fledge.tokenizers.split import split_characters, split_text
from fledge.tokenizers.vocabulary import list_vocabulary, search_vocabulary

TEXT = "Once upon a time there was a duck, and the duck could write aaaaa. 🙂🙃🙂 " * 20
TRAINED = {pattern: BpeTokenizer.train([TEXT], 300, END_OF_TEXT, pattern=pattern) for pattern in ("gpt2", "gpt4")}
TABLES = {pattern: MergeTable(tokenizer.to_json()) for pattern, tokenizer in TRAINED.items()}
CHAR = CharTokenizer.train([TEXT], special=END_OF_TEXT)
TEXTS = st.text(alphabet="aOnce uptimhrwdk,.🙂🙃é\n\t0\ud800ש", max_size=60)


def ids_of(table: MergeTable, text: str) -> list[int]:
    steps = table.steps(table.words(text))
    return [i for word in steps.after(len(steps.merges)) for i in word]


@settings(deadline=None)
@given(TEXTS, st.sampled_from(sorted(TABLES)))
def test_last_step_is_the_encoding_of_both_implementations(text: str, pattern: str) -> None:
    tokenizer = TRAINED[pattern]
    library = hf.Tokenizer.from_str(json.dumps(tokenizer.to_json()))
    expected = tokenizer.encode(text).tolist()
    assert ids_of(TABLES[pattern], text) == expected
    assert library.encode(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")).ids == expected


@settings(deadline=None)
@given(TEXTS)
def test_every_step_joins_two_neighbors_and_keeps_the_text(text: str) -> None:
    table, tokens = TABLES["gpt2"], TRAINED["gpt2"].tokens
    steps = table.steps(table.words(text))
    for number, merge in enumerate(steps.merges):
        before, after = steps.after(number), steps.after(number + 1)
        left, right, rank = table.parts[merge.token]
        assert before[merge.word][merge.position : merge.position + 2] == [left, right]
        assert rank == merge.rank
        assert sum(map(len, after)) == sum(map(len, before)) - 1
        assert b"".join(tokens[i] for word in after for i in word).decode() == TRAINED["gpt2"].decode(
            TRAINED["gpt2"].encode(text).tolist()
        )


def small_bpe(merges: list[tuple[str, str]], **changes: Any) -> dict[str, Any]:
    names = sorted(TRAINED["gpt2"].to_json()["model"]["vocab"], key=len)[:256]
    vocabulary = {name: i for i, name in enumerate([*names, *dict.fromkeys(a + b for a, b in merges)])}
    content = bpe_json(vocabulary, merges, None, "gpt2")
    return {**content, "model": content["model"] | changes}


@pytest.mark.parametrize(
    ("merges", "text"),
    [
        ([("b", "c"), ("a", "b"), ("ab", "c")], "abcabc"),  # the first rank wins, not the leftmost pair
        ([("ab", "c"), ("a", "b"), ("b", "c")], "abcab"),  # a merge makes a pair of a lower rank
        ([("a", "a")], "aaaaa"),
        ([("a", "b"), ("b", "a"), ("a", "b")], "abab"),  # repeated: the last occurrence sets the rank
    ],
)
def test_order_of_merges_is_that_of_the_library(merges: list[tuple[str, str]], text: str) -> None:
    content = small_bpe(merges)
    assert ids_of(MergeTable(content), text) == hf.Tokenizer.from_str(json.dumps(content)).encode(text).ids


def test_whole_words_come_first_where_the_file_says_so() -> None:
    """As Llama 3's: a word of the vocabulary needs no merge."""
    content = small_bpe([("a", "b"), ("c", "d"), ("b", "c")], ignore_merges=True)
    content["model"]["vocab"]["abcd"] = 400
    table = MergeTable(content)
    assert table.steps(table.words("abcd")).merges == []
    assert ids_of(table, "abcd") == [400]


def test_foreign_pre_tokenizers_and_normalizers_are_followed() -> None:
    content = small_bpe([("a", "b"), ("1", "2")])
    split = {"type": "Digits", "individual_digits": True}
    content |= {"normalizer": {"type": "Lowercase"}, "pre_tokenizer": {
        "type": "Sequence", "pretokenizers": [split, content["pre_tokenizer"]]}}  # fmt: skip
    tokenizer = parse_tokenizer(content, "a file")
    assert ids_of(MergeTable(content), "AB 12 ab") == tokenizer.encode("AB 12 ab").tolist()


def test_tokenizers_without_merges_are_refused() -> None:
    with pytest.raises(UserError, match="no merges"):
        MergeTable(CHAR.to_json())
    with pytest.raises(UserError, match="no merges"):
        MergeTable(small_bpe([], byte_fallback=True))


def test_added_tokens_in_a_text_are_refused() -> None:
    content = small_bpe([("a", "b")])
    content["added_tokens"] = [
        {"id": 400, "content": "<ab>", "special": False, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    ]
    with pytest.raises(UserError, match="added tokens"):
        MergeTable(content).words("ab <ab>")


@settings(deadline=None)
@given(TEXTS)
def test_split_describes_every_token(text: str) -> None:
    tokenizer: Tokenizer = TRAINED["gpt2"]
    split = split_text(tokenizer, text)
    ids = tokenizer.encode(text).tolist()
    assert [token.id for token in split.tokens] == ids
    assert bytes.fromhex("".join(token.bytes for token in split.tokens)).decode() == tokenizer.decode(ids)
    assert all(token.count == ids.count(token.id) for token in split.tokens)
    assert (split.total, split.characters, split.distinct) == (len(ids), len(text), len(set(ids)))


def test_split_of_no_text_and_of_a_long_one() -> None:
    assert split_text(CHAR, "").characters_per_token == 0
    split = split_text(TRAINED["gpt2"], TEXT, limit=10)
    assert len(split.tokens) == 10
    assert split.total == len(TRAINED["gpt2"].encode(TEXT))


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ([b"a", b"\xf0\x9f", b"\x99\x82", b"b"], ["", "🙂", "🙂", ""]),
        ([b"\xc3", b"\xa9 x"], ["é x", "é x"]),
        ([b"\xff", b"a"], ["", ""]),
        ([b"\xf0\x9f", b"a"], ["", ""]),  # a character that never ends
        ([b"a\xc3"], [""]),
        ([b"", b"a"], ["", ""]),
    ],
)
def test_characters_that_several_tokens_share(contents: list[bytes], expected: list[str]) -> None:
    assert split_characters(contents) == expected


def test_vocabulary_shows_parts_and_is_searched_by_text_and_id() -> None:
    tokenizer = TRAINED["gpt2"]
    entries = list_vocabulary(tokenizer, tokenizer.to_json(), TABLES["gpt2"].parts)
    assert [entry.id for entry in entries] == list(range(tokenizer.vocab_size))
    assert (entries[0].text, entries[0].special, entries[0].bytes) == (END_OF_TEXT, True, "")
    assert all(entry.left + entry.right == entry.text for entry in entries if entry.left and entry.text.isascii())
    duck = search_vocabulary(entries, "DUCK")
    assert duck
    assert all("duck" in entry.text for entry in duck)
    assert search_vocabulary(entries, "a")[0].text == "a"
    assert search_vocabulary(entries, "290")[0].id == 290
    assert search_vocabulary(entries, "no such token") == []
