"""BLEU, chrF, ROUGE, repetition: against the libraries on texts given one by one, and known answers."""

import sys

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from fledge.core.errors import UserError
from fledge.evaluation.text_scores import ends_in_loop, reference_scores, repeated_ngrams, require_libraries

TEXTS = ["the cat sat on the mat today", "a dog barks at night", ""]
REFERENCES = [["the cat sat on a mat today"], ["a dog barks at night", "dogs bark"], ["something else"]]


def test_bleu_and_chrf_are_those_of_sacrebleu() -> None:
    found = reference_scores(TEXTS[:2], [each[:1] for each in REFERENCES[:2]])
    streams = [[each[0] for each in REFERENCES[:2]]]
    assert found.bleu == sacrebleu.BLEU().corpus_score(TEXTS[:2], streams).score
    assert found.chrf == sacrebleu.CHRF().corpus_score(TEXTS[:2], streams).score


def test_rouge_is_the_mean_of_the_closest_references() -> None:
    found, scorer = reference_scores(TEXTS, REFERENCES), RougeScorer(["rouge1", "rouge2", "rougeL"])
    for name in ("rouge1", "rouge2", "rougeL"):
        best = [
            max(scorer.score(reference, text)[name].fmeasure for reference in references)
            for text, references in zip(TEXTS, REFERENCES, strict=True)
        ]
        assert getattr(found, name) == pytest.approx(sum(best) / len(best))


def test_more_references_than_another_text_has() -> None:
    one, two = (reference_scores(TEXTS[:2], [REFERENCES[0], each]) for each in (REFERENCES[1][1:], REFERENCES[1]))
    assert two.bleu > one.bleu
    assert two.rouge1 > one.rouge1


def test_equal_texts_have_the_highest_scores() -> None:
    found = reference_scores(TEXTS[:1], [TEXTS[:1]])
    assert (found.bleu, found.chrf, found.rouge1, found.rouge2, found.rougeL) == pytest.approx((100, 100, 1, 1, 1))


def test_missing_library_is_an_error_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(UserError, match="sacrebleu") as caught:
        require_libraries()
    assert caught.value.hint == "pip install 'fledge[eval]'"


@pytest.mark.parametrize(
    ("tokens", "n", "expected"),
    [([], 2, (0, 0)), ([1], 2, (0, 0)), ([1, 2, 1, 2], 2, (1, 3)), ([5] * 6, 3, (3, 4)), ([1, 2, 3, 4], 1, (0, 4))],
)
def test_repeated_ngrams(tokens: list[int], n: int, expected: tuple[int, int]) -> None:
    assert repeated_ngrams(tokens, n) == expected


@given(
    start=st.lists(st.integers(0, 3), max_size=20),
    piece=st.lists(st.integers(0, 3), min_size=1, max_size=7),
    times=st.integers(3, 9),
)
def test_piece_said_three_times_is_a_loop(start: list[int], piece: list[int], times: int) -> None:
    tokens = start + piece * times
    assert ends_in_loop(tokens, 3)
    assert ends_in_loop(tokens, len(piece) * times)
    assert not ends_in_loop([*tokens, 9], 3)
    assert not ends_in_loop(tokens, len(tokens) + 1)


@given(st.lists(st.integers(0, 1), max_size=30), st.integers(1, 12))
def test_loops_are_those_of_a_direct_search(tokens: list[int], least: int) -> None:
    def is_loop(piece: list[int]) -> bool:
        size = max(3 * len(piece), least)
        tail = (piece * size)[:size][::-1]
        return len(tokens) >= size and tokens[-size:] == tail

    pieces = [tokens[-size:][::-1] for size in range(1, len(tokens) // 3 + 1)]
    assert ends_in_loop(tokens, least) == any(is_loop(piece) for piece in pieces)


def test_different_words_are_no_loop() -> None:
    assert not ends_in_loop(list(range(50)), 3)
    assert not ends_in_loop([1, 2, 3, 1, 2, 3], 3)
