"""Multiple choice: which continuation of a context does the model find the most likely?

    {"ctx": "She opened the door and", "endings": ["walked in.", "ate it."], "label": 0}      HellaSwag's format
    {"query": "2 + 2 =", "choices": ["4", "5", "22"], "gold": 0}                              the same in general

Longer continuations are less likely, so log-probabilities are divided by the length before they are compared. Three
accuracies: per byte (the headline for files: it does not depend on the tokenizer), per token, and of the plain sums.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fledge.core.errors import UserError
from fledge.evaluation.likelihood import Pair, Scorer
from fledge.tasks.results import ItemScore, TaskResult, summarize

KEYS = (("ctx", "endings", "label"), ("query", "choices", "gold"))
PLAIN, PER_BYTE, PER_TOKEN = "accuracy", "accuracy_per_byte", "accuracy_per_token"


@dataclass(frozen=True)
class Item:
    number: int
    pairs: Sequence[Pair]  # one for each choice
    gold: int
    cluster: int = -1


@dataclass(frozen=True)
class Question:
    context: str
    choices: Sequence[str]
    gold: int


def score_items(task: str, scorer: Scorer, items: Sequence[Item], headline: str, **known: Any) -> TaskResult:
    """Accuracy in all three ways; `headline` is the score."""
    flat = iter(scorer.score([pair for item in items for pair in item.pairs]))
    found = [[next(flat) for _ in item.pairs] for item in items]
    ways = {
        PLAIN: lambda one: one.logprob,
        PER_BYTE: lambda one: one.logprob / max(1, one.bytes),
        PER_TOKEN: lambda one: one.logprob / max(1, one.tokens),
    }

    def accuracy(way: str) -> dict[int, ItemScore]:
        values = [[ways[way](one) for one in each] for each in found]
        return {
            item.number: ItemScore(credit(each, item.gold), cluster=item.cluster)
            for item, each in zip(items, values, strict=True)
        }

    chance = sum(1 / len(item.pairs) for item in items) / len(items) if items else math.nan
    metrics = {way: sum(score.total for score in accuracy(way).values()) / max(1, len(items)) for way in ways}
    return summarize(task, headline, accuracy(headline), chance=chance, metrics=metrics, **known)


def credit(values: Sequence[float], gold: int) -> float:
    """1 where the right choice has the highest value; what several choices share is divided among them."""
    best = max(values)
    return (values[gold] == best) / sum(value == best for value in values)


def encode_question(scorer: Scorer, question: Question) -> list[Pair]:
    """A space is put between context and choice, unless there is one."""
    spaced = not question.context or question.context[-1].isspace()
    choices = [choice if spaced or choice[:1].isspace() else f" {choice}" for choice in question.choices]
    return [scorer.encode_pair(question.context, choice) for choice in choices]


def encode_all(scorer: Scorer, questions: Sequence[Question]) -> tuple[list[Item], int]:
    """The items, and how many questions the tokenizer cannot encode."""
    items = []
    for number, question in enumerate(questions):
        try:
            items.append(Item(number, encode_question(scorer, question), question.gold))
        except UserError:  # a character is not in the vocabulary
            continue
    return items, len(questions) - len(items)


def read_questions(path: Path) -> list[Question]:
    questions = [_question(line, f"line {number} of '{path}'") for number, line in read_lines(path)]
    if not questions:
        raise UserError(f"'{path}' holds no questions", f"write one a line, such as {_example()}")
    return questions


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSONL file, with their line numbers; empty lines are left out."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}", "check the path") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:  # also: not UTF-8, or nested too deeply
            raise UserError(
                f"line {number} of '{path}' is not JSON ({error})", "write one JSON object a line"
            ) from None
        if not isinstance(content, dict):
            raise UserError(f"line {number} of '{path}' is not a JSON object", f"write, for example, {_example()}")
        yield number, content


def _question(line: dict[str, Any], where: str) -> Question:
    keys = next((keys for keys in KEYS if keys[1] in line), None)
    if keys is None or not all(key in line for key in keys):
        raise UserError(f"{where} is not a multiple-choice question", f"write, for example, {_example()}")
    context, choices, gold = (line[key] for key in keys)
    if not isinstance(context, str):
        raise UserError(f"{where}: '{keys[0]}' is not text", f"write, for example, {_example()}")
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice for choice in choices):
        raise UserError(f"{where}: '{keys[1]}' is not a list of texts", f"write, for example, {_example()}")
    if len(choices) < 2:
        raise UserError(f"{where} has only {len(choices)} of '{keys[1]}'", "give at least two: one right, one wrong")
    number = int(gold) if isinstance(gold, str) and gold.isdecimal() else gold
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(choices):
        raise UserError(
            f"{where}: '{keys[2]}' is {json.dumps(gold)}, but there are {len(choices)} choices",
            f"it is the number of the right one, from 0 to {len(choices) - 1}",
        )
    return Question(context, tuple(choices), number)


def _example() -> str:
    return '{"query": "2 + 2 =", "choices": ["4", "5"], "gold": 0}'
