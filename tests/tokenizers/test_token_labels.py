"""Labels of single tokens."""

from fledge.tokenizers.char import CharTokenizer
from fledge.tokenizers.hf import HFTokenizer
from fledge.tokenizers.token_labels import token_labels, visible


def test_parts_of_characters_and_special_tokens_have_labels() -> None:
    tokenizer = HFTokenizer.train(["the duck"], 257, "<|end|>")
    ids = [*tokenizer.encode("a é").tolist(), tokenizer.end_of_text or 0, 300]
    assert token_labels(tokenizer, ids) == ["a", " ", r"\xc3", r"\xa9", "<|end|>", "[300]"]


def test_characters_are_their_own_labels() -> None:
    tokenizer = CharTokenizer(["\n", "<", "א"], "<|end|>")
    assert token_labels(tokenizer, [2, 1, 0, 1, 3]) == ["א", "<", "\n", "<", "<|end|>"]


def test_visible_shows_what_has_no_shape() -> None:
    assert visible(" a\n\t\x1b[0m") == r"·a↵→\x1b[0m"
