"""CORE: the 22 tasks of the DCLM paper (arXiv 2406.11794), as nanochat runs them, from its evaluation bundle.

    DIR/core.yaml             the tasks: label, dataset_uri, num_fewshot, icl_task_type, continuation_delimiter
    DIR/eval_meta_data.csv    the accuracy of guessing, in per cent
    DIR/eval_data/…           one JSONL file a task

    multiple_choice       one query, several choices: the choice with the highest log-probability per token
    schema                several contexts, one continuation: the context that makes it most likely
    language_modeling     a context and its continuation: would greedy decoding give exactly that?

Examples come before the question, drawn from the other items. An accuracy is centered: 0 is guessing, 1 is perfect. The
CORE metric is the mean of the centered accuracies.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from random import Random
from typing import Any

from fledge.core.errors import UserError, nearest
from fledge.evaluation.likelihood import Ids, Scorer
from fledge.tasks.multiple_choice import PER_TOKEN, PLAIN, Item, read_lines, score_items
from fledge.tasks.results import ItemScore, TaskResult, summarize

SUITE = "core"
TASKS = [
    *("agi_eval_lsat_ar", "arc_challenge", "arc_easy", "bigbench_cs_algorithms", "bigbench_dyck_languages"),
    *("bigbench_language_identification", "bigbench_operators", "bigbench_qa_wikidata", "bigbench_repeat_copy_logic"),
    *("boolq", "commonsense_qa", "copa", "coqa", "hellaswag", "hellaswag_zeroshot", "jeopardy", "lambada_openai"),
    *("openbook_qa", "piqa", "squad", "winograd", "winogrande"),
]
CORE_TASKS = [f"{SUITE}/{task}" for task in TASKS]
LANGUAGE_MODELING = "language_modeling"
KEYS = {
    "multiple_choice": ("query", "choices", "gold"),
    "schema": ("context_options", "continuation", "gold"),
    LANGUAGE_MODELING: ("context", "continuation"),
}
TYPES = {"query": str, "choices": list, "gold": int, "context_options": list, "continuation": str, "context": str}
SHUFFLE, EXAMPLES = 1337, 1234  # nanochat's seeds
HINT = "give the folder of nanochat's eval_bundle.zip, with core.yaml in it: --core-data DIR"


@dataclass(frozen=True)
class CoreTask:
    label: str
    kind: str
    path: Path
    examples: int
    delimiter: str
    guess: float  # accuracy of guessing

    def texts(self, item: Mapping[str, Any]) -> list[str]:
        """The item with each of its choices."""
        if self.kind == "multiple_choice":
            return [f"{item['query']}{self.delimiter}{choice}" for choice in item["choices"]]
        if self.kind == "schema":
            return [f"{context}{self.delimiter}{item['continuation']}" for context in item["context_options"]]
        return [f"{item['context'].strip()}{self.delimiter}{item['continuation']}"]

    def prompt(self, data: Sequence[Mapping[str, Any]], number: int) -> str:
        """The solved examples before item `number`, drawn from the others."""
        if not self.examples:
            return ""
        others = [each for at, each in enumerate(data) if at != number]
        chosen = Random(EXAMPLES + number).sample(others, min(self.examples, len(others)))  # noqa: S311
        return "".join(f"{self.texts(each)[each.get('gold', 0)]}\n\n" for each in chosen)

    def item(self, scorer: Scorer, data: Sequence[Mapping[str, Any]], number: int) -> Item:
        """What differs between the rows is scored, after what they have in common; of a schema the other way round."""
        start, item = self.prompt(data, number), data[number]
        rows = [scorer.start + scorer.encode(start + text) for text in self.texts(item)]
        if self.kind == "schema":
            size = max(1, common_length([row[::-1] for row in rows]))
            return Item(number, [(row[:-size], row[-size:]) for row in rows], item["gold"])
        compared = rows
        if self.kind == LANGUAGE_MODELING:
            without = f"{start}{item['context'].strip()}{self.delimiter}".strip()
            compared = [*rows, scorer.start + scorer.encode(without)]
        size = min(common_length(compared), min(map(len, rows)) - 1)
        return Item(number, [(row[:size], row[size:]) for row in rows], item.get("gold", 0))


def common_length(rows: Sequence[Ids]) -> int:
    """How many tokens all rows begin with."""
    return len(list(takewhile(lambda tokens: len(set(tokens)) == 1, zip(*rows, strict=False))))


def run_core(names: Sequence[str], scorer: Scorer, folder: Path | None, limit: int | None) -> list[TaskResult]:
    """`core` is all tasks and the CORE metric, `core/NAME` one of them."""
    known = read_core(folder)
    labels = [name.removeprefix(f"{SUITE}/") for name in names]
    wanted = list(known) if SUITE in labels else labels
    for label in wanted:
        if label not in known:
            raise UserError(f"'{folder}' has no task '{label}'", nearest(label, known) or f"it has: {', '.join(known)}")
    results = [run_task(known[label], scorer, limit) for label in wanted]
    return [*results, core_metric(results)] if SUITE in labels else results


def read_core(folder: Path | None) -> dict[str, CoreTask]:
    import yaml

    if folder is None:
        raise UserError("the data of the CORE tasks is not part of fledge", HINT)
    try:
        tasks = yaml.safe_load((folder / "core.yaml").read_text(encoding="utf-8"))["icl_tasks"]
        with (folder / "eval_meta_data.csv").open(encoding="utf-8", newline="") as file:
            guesses = {row["Eval Task"]: float(row["Random baseline"]) / 100 for row in csv.DictReader(file)}
        return {
            each["label"]: CoreTask(
                each["label"],
                each["icl_task_type"],
                _inside(folder / "eval_data", each["dataset_uri"]),
                int(each["num_fewshot"][0]),
                each.get("continuation_delimiter", " "),
                guesses[each["label"]],
            )
            for each in tasks
        }
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"'{folder}' does not hold the CORE tasks ({error})", HINT) from None


def _inside(folder: Path, name: str) -> Path:
    if not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"'{name}' is outside of it")
    return folder / name


def run_task(task: CoreTask, scorer: Scorer, limit: int | None) -> TaskResult:
    if task.kind not in KEYS:
        raise UserError(f"CORE task '{task.label}' is of the unknown kind '{task.kind}'", f"known: {', '.join(KEYS)}")
    data = [line for number, line in read_lines(task.path) if _check(line, task, number)]
    Random(SHUFFLE).shuffle(data)  # noqa: S311
    data = data[:limit]
    items, skipped = [], 0
    for number in range(len(data)):
        try:
            items.append(task.item(scorer, data, number))
        except UserError:  # a character is not in the vocabulary
            skipped += 1
    known = {"skipped": skipped, "about": f"{task.kind.replace('_', ' ')}, {task.examples} examples"}
    if task.kind == LANGUAGE_MODELING:
        found = scorer.score([item.pairs[0] for item in items])
        scores = {item.number: ItemScore(float(one.is_greedy)) for item, one in zip(items, found, strict=True)}
        result = summarize(f"{SUITE}/{task.label}", PLAIN, scores, **known)
    else:
        result = score_items(f"{SUITE}/{task.label}", scorer, items, PER_TOKEN, **known)
    centered = (result.score - task.guess) / (1 - task.guess)
    return replace(result, chance=task.guess, metrics={**result.metrics, "centered": centered})


def _check(line: Mapping[str, Any], task: CoreTask, number: int) -> bool:
    wrong = [key for key in KEYS[task.kind] if not isinstance(line.get(key), TYPES[key])]
    gold, options = line.get("gold", 0), line.get("choices", line.get("context_options", [None]))
    if wrong or not 0 <= gold < len(options):
        what = f"has no valid '{wrong[0]}'" if wrong else f"has a 'gold' of {gold}, but {len(options)} options"
        raise UserError(f"line {number} of '{task.path}' {what}", HINT)
    return True


def core_metric(results: Sequence[TaskResult]) -> TaskResult:
    """The mean of the centered accuracies."""
    score = sum(each.metrics["centered"] for each in results) / len(results)
    errors = [(each.stderr or 0.0) / (1 - (each.chance or 0.0)) for each in results]
    stderr = math.sqrt(sum(error**2 for error in errors)) / len(results)
    items, about = sum(each.items for each in results), f"mean of {len(results)} centered accuracies"
    low, high = score - 1.96 * stderr, score + 1.96 * stderr
    return TaskResult(SUITE, "centered_accuracy", score, stderr, low, high, items, chance=0.0, about=about)
