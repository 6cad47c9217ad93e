"""Fast encoding gives the ids of the reference, or is not used."""

import random
from collections.abc import Callable

import pytest

from fledge.tokenizers import gigatoken
from fledge.tokenizers.base import END_OF_TEXT
from fledge.tokenizers.hf import HFTokenizer

pytest.importorskip("gigatoken", reason="gigatoken is not installed")
TEXT = "Once upon a time there was a duck, and the duck could write. " * 20


def test_fast_encoder_is_used_where_it_agrees() -> None:
    for pattern in ("gpt2", "gpt4"):
        assert HFTokenizer.train([TEXT], 280, END_OF_TEXT, pattern=pattern)._fast_encode


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4"])
def test_ids_equal_the_reference(real_text: Callable[[str], str], pattern: str) -> None:
    text = real_text("python")[:500_000]
    made = HFTokenizer.train([text], 2000, END_OF_TEXT, pattern=pattern)
    choose = random.Random(2)
    characters = [chr(c) for c in range(0x2FF) if chr(c).isprintable()] + list("\n\n\t  \r中Я🦆\u3000\x85\x1c")
    random_texts = ["".join(choose.choices(characters, k=choose.randint(0, 40))) for _ in range(2000)]
    for each in [text, *random_texts]:
        assert made.encode(each).tolist() == made._reference_ids(each)


def test_fast_encoder_that_differs_is_not_used() -> None:
    content = HFTokenizer.train([TEXT], 280, END_OF_TEXT).to_json()
    assert gigatoken.fast_encoder(content, lambda _: [0]) is None


def test_fast_encoder_that_fails_is_not_used() -> None:
    made = HFTokenizer.train([TEXT], 280, END_OF_TEXT)
    assert gigatoken.fast_encoder({"model": "none", "added_tokens": []}, made._reference_ids) is None
