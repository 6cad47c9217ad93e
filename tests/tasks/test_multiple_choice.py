"""Multiple choice from files, the intervals of a score, and the comparison of two models."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.evaluation.likelihood import Scorer
from fledge.model.config import ModelConfig
from fledge.model.init import build
from fledge.tasks.multiple_choice import (
    PER_BYTE,
    Question,
    credit,
    encode_all,
    read_questions,
    score_items,
)
from fledge.tasks.results import ItemScore, compare_results, summarize
from fledge.tokenizers.char import CharTokenizer

HELLASWAG = {"ind": 1, "ctx": "She opens the door and", "endings": ["walks in.", "eats it."], "label": 0}
GENERIC = {"query": "2 + 2 =", "choices": ["4", "5", "22"], "gold": 2}
TOKENIZER = CharTokenizer([chr(code) for code in range(32, 127)], None)


def make_scorer(seed: int = 0) -> Scorer:
    model = build(ModelConfig(n_layer=1, n_head=2, n_embd=16, context=64, vocab_size=TOKENIZER.vocab_size), seed)
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(seed))
    return Scorer(model, TOKENIZER, Machine("cpu", "float32"))


def write(path: Path, *lines: Any) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_both_formats_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", HELLASWAG, "", GENERIC, {**HELLASWAG, "label": "1"})
    first, second, third = read_questions(path)
    assert first == Question("She opens the door and", ("walks in.", "eats it."), 0)
    assert second == Question("2 + 2 =", ("4", "5", "22"), 2)
    assert third.gold == 1, "the published files of HellaSwag hold labels as text"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"query": ', "line 2 of .* is not JSON"),
        ("[1]", "line 2 of .* is not a JSON object"),
        ("\udcff", "line 2 of .* is not JSON"),
        ("[" * 100_000, "line 2 of .* is not JSON"),
        ({"query": "a", "choices": ["b", "c"]}, "line 2 of .* is not a multiple-choice question"),
        ({"text": "a"}, "line 2 of .* is not a multiple-choice question"),
        ({**GENERIC, "query": 4}, "line 2 of .*'query' is not text"),
        ({**GENERIC, "choices": "four"}, "line 2 of .*'choices' is not a list of texts"),
        ({**GENERIC, "choices": ["4", 5]}, "line 2 of .*'choices' is not a list of texts"),
        ({**GENERIC, "choices": ["4", ""]}, "line 2 of .*'choices' is not a list of texts"),
        ({**GENERIC, "choices": ["4"], "gold": 0}, "line 2 of .* has only 1 of 'choices'"),
        ({**GENERIC, "gold": 3}, "line 2 of .*'gold' is 3, but there are 3 choices"),
        ({**GENERIC, "gold": -1}, "line 2 of .*'gold' is -1"),
        ({**GENERIC, "gold": True}, "line 2 of .*'gold' is true"),
        ({**GENERIC, "gold": "two"}, "line 2 of .*'gold' is \"two\""),
        ({**HELLASWAG, "label": None}, "line 2 of .*'label' is null"),
    ],
)
def test_bad_lines_are_named_with_their_number(tmp_path: Path, line: Any, complaint: str) -> None:
    path = tmp_path / "q.jsonl"
    text = line if isinstance(line, str) else json.dumps(line)
    path.write_bytes(json.dumps(GENERIC).encode() + b"\n" + text.encode("utf-8", "surrogateescape") + b"\n")
    with pytest.raises(UserError, match=complaint) as caught:
        read_questions(path)
    assert caught.value.hint


def test_files_without_questions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no questions"):
        read_questions(write(tmp_path / "empty.jsonl", ""))
    with pytest.raises(UserError, match="cannot read"):
        read_questions(tmp_path / "missing.jsonl")
    with pytest.raises(UserError, match="cannot read"):
        read_questions(tmp_path)


def test_accuracies_follow_from_the_likelihoods() -> None:
    questions = [Question("ab", ("c", "a much longer one"), gold) for gold in (0, 1)]
    questions += [Question("What? ", ("d", "e", "f"), 0), Question("", ("gh", "hg"), 1)]
    scorer = make_scorer()
    items, skipped = encode_all(scorer, [*questions, Question("é", ("a", "b"), 0)])
    assert skipped == 1
    found = score_items("mine", scorer, items, PER_BYTE, skipped=skipped)
    right = {"accuracy": 0, "accuracy_per_byte": 0, "accuracy_per_token": 0}
    for question in questions:
        spaced = not question.context or question.context.endswith(" ")
        texts = [choice if spaced else f" {choice}" for choice in question.choices]
        sums = [each.logprob for each in scorer.score([scorer.encode_pair(question.context, text) for text in texts])]
        means = [total / len(scorer.encode_pair(question.context, t)[1]) for total, t in zip(sums, texts, strict=True)]
        right["accuracy"] += sums.index(max(sums)) == question.gold
        right["accuracy_per_byte"] += means.index(max(means)) == question.gold  # a character is a byte here
        right["accuracy_per_token"] += means.index(max(means)) == question.gold
    assert found.metrics == {way: count / 4 for way, count in right.items()}
    assert (found.score, found.metric, found.items) == (found.metrics[PER_BYTE], PER_BYTE, 4)
    assert found.chance == pytest.approx((3 / 2 + 1 / 3) / 4)


def test_ties_are_shared() -> None:
    assert credit([1.0, 1.0, 0.0], 0) == 0.5
    assert credit([1.0, 1.0, 0.0], 2) == 0
    assert credit([0.0, 2.0], 1) == 1


scores = st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(-1, 4)), min_size=1, max_size=60)


@given(scores)
def test_interval_of_a_fraction_holds_its_score(items: list[tuple[float, int]]) -> None:
    found = summarize("t", "accuracy", {n: ItemScore(total, 1, cluster) for n, (total, cluster) in enumerate(items)})
    assert found.score == pytest.approx(sum(total for total, _ in items) / len(items))
    if found.low is None or found.high is None:
        assert found.stderr is None
        return
    assert 0 <= found.low <= found.score <= found.high <= 1
    assert found.low < found.high


@given(st.lists(st.booleans(), min_size=2, max_size=40))
def test_standard_error_of_independent_items_is_the_usual_one(right: list[bool]) -> None:
    found = summarize("t", "accuracy", {n: ItemScore(float(each)) for n, each in enumerate(right)})
    mean = sum(right) / len(right)
    variance = sum((each - mean) ** 2 for each in right) / (len(right) - 1)
    assert found.stderr == pytest.approx(math.sqrt(variance / len(right)))


def test_items_that_are_right_together_count_as_one() -> None:
    alone = {n: ItemScore(float(n % 2)) for n in range(40)}
    together = {n: ItemScore(float(n // 4 % 2), cluster=n // 4) for n in range(40)}
    one, other = summarize("t", "accuracy", alone), summarize("t", "accuracy", together)
    assert one.score == other.score
    assert other.high - other.low > 1.7 * (one.high - one.low)


def test_compare_pairs_the_items_that_both_have() -> None:
    first = summarize("a", "accuracy", {n: ItemScore(1.0) for n in range(30)})
    second = summarize("a", "accuracy", {n: ItemScore(float(n % 3 == 0)) for n in range(10, 40)})
    (found,) = compare_results([first, summarize("b", "accuracy", {0: ItemScore(1.0)})], [second])
    assert found.task == "a"
    assert found.difference.units == 20
    assert found.difference.difference == pytest.approx(1 - 7 / 20, abs=0.06)
    assert found.difference.is_significant
    (same,) = compare_results([first], [first])
    assert same.difference.difference == 0
    assert not same.difference.is_significant
    assert compare_results([first], [summarize("a", "accuracy", {99: ItemScore(1.0)})]) == []
