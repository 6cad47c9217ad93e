"""The fastest engine gives what the reference gives, or is not used."""

import random
from collections.abc import Callable

import pytest

from fledge.tokenizers import gigatoken
from fledge.tokenizers.base import END_OF_TEXT
from fledge.tokenizers.bpe import BpeTokenizer
from fledge.tokenizers.byte_level import BLOCK, split_long_runs
from fledge.tokenizers.hf import HFTokenizer, joined, train_in_process
from fledge.tokenizers.patterns import split_regex

pytest.importorskip("gigatoken", reason="the fast engine is not installed")
TEXT = "Once upon a time there was a duck, and the duck could write. " * 20


def test_the_engine_is_used_where_it_agrees() -> None:
    assert gigatoken.trainer_available()
    for pattern in ("gpt2", "gpt4"):
        assert HFTokenizer.train([TEXT], 280, END_OF_TEXT, pattern=pattern)._turbo


@pytest.mark.parametrize("corpus", ["shakespeare", "wikitext", "python"])
def test_it_learns_what_the_reference_learns(real_text: Callable[[str], str], corpus: str) -> None:
    text = real_text(corpus)[:1_000_000]
    texts = [text[:1000], "", text[1000:]]
    with gigatoken.Spool(texts) as spool:
        merges = gigatoken.learn(spool, 2000)
    assert merges
    assert joined(merges, END_OF_TEXT).to_json() == train_in_process(texts, 2257, END_OF_TEXT, "gpt2").to_json()


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4"])
def test_it_encodes_what_the_reference_encodes(real_text: Callable[[str], str], pattern: str) -> None:
    text = real_text("python")[:500_000]
    made = HFTokenizer.train([text], 2000, END_OF_TEXT, pattern=pattern)
    choose = random.Random(2)
    characters = [chr(c) for c in range(0x2FF) if chr(c).isprintable()] + list("\n\n\t  \r中Я🦆\u3000\x85\x1c")
    random_ones = ["".join(choose.choices(characters, k=choose.randint(0, 40))) for _ in range(2000)]
    for one in [text, *random_ones]:
        assert made.encode(one).tolist() == made._reference(one)


def test_it_learns_what_is_learned_from_scratch_where_everything_is_a_tie() -> None:
    choose = random.Random(3)
    texts = ["".join(choose.choices("aab ", k=120)) for _ in range(20)] + ["a" * 57, ""]
    made = BpeTokenizer.train(texts, 320, exact=False)
    assert HFTokenizer.train(texts, 320, exact=False).to_json() == made.to_json()


def test_an_engine_that_differs_is_not_used() -> None:
    content = HFTokenizer.train([TEXT], 280, END_OF_TEXT).to_json()
    assert gigatoken.fast_encoder(content, lambda _: [0]) is None


def test_an_engine_that_fails_is_not_used() -> None:
    made = HFTokenizer.train([TEXT], 280, END_OF_TEXT)
    assert gigatoken.fast_encoder({"model": "none", "added_tokens": []}, made._reference) is None


def test_texts_that_come_only_once_are_kept_for_the_reference() -> None:
    texts = ["one", "", "zwei\n🦆", "x y " * 1_000_000]
    with gigatoken.Spool(iter(texts)) as spool:
        assert list(spool) == texts
        assert list(spool) == texts
    assert not spool.path.exists()


def test_where_training_breaks_the_reference_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = HFTokenizer.train([TEXT], 280, END_OF_TEXT).to_json()
    monkeypatch.setattr(gigatoken, "TRAINER", "raise SystemExit(1)")
    assert HFTokenizer.train(iter([TEXT]), 280, END_OF_TEXT).to_json() == expected


@pytest.mark.parametrize("text", ["a" * 10, "aaabbbbb", " ==--=======--=== ", "# Title\n" + "-" * 77 + "\n"])
def test_a_text_with_nothing_left_to_merge_gives_no_more_tokens_than_it_holds(text: str) -> None:
    made = HFTokenizer.train([text], 1024, exact=False)
    assert made.to_json() == BpeTokenizer.train([text], 1024, exact=False).to_json()
    assert made.to_json() == train_in_process([text], 1024, None, "gpt2").to_json()
    assert len(made.encode(text)) == len(list(split_regex("gpt2").finditer(text)))


@pytest.mark.parametrize("run", ["a", " ", "\n", "ACGTTGCA", "- "])
def test_a_long_run_is_cut_for_everyone_who_learns(run: str) -> None:
    text = f"begin {run * (300_000 // len(run))}x end"
    made = HFTokenizer.train([text], 300, exact=False)
    assert made.to_json() == BpeTokenizer.train([text], 300, exact=False).to_json()
    assert made.to_json() == train_in_process([text], 300, None, "gpt2").to_json()
    assert "".join(split_long_runs([text])) == text
    words = split_regex("gpt2")
    assert all(len(chunk.group()) < 3 * BLOCK for part in split_long_runs([text]) for chunk in words.finditer(part))
