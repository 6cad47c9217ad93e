"""CORE: the prompts, what is scored, and the metric; from a small bundle in the format of the real one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.evaluation.likelihood import Scorer
from fledge.model.config import ModelConfig
from fledge.model.init import build
from fledge.tasks.core import CORE_TASKS, CoreTask, common_length, read_core
from fledge.tasks.run import run_tasks
from fledge.tokenizers.char import CharTokenizer

TOKENIZER = CharTokenizer(["\n", *map(chr, range(32, 127))], "<|endoftext|>")
LETTERS = "abcdefgh"
CHOICE = [{"query": f"Q{n}:", "choices": ["yes", "no way"], "gold": n % 2} for n in range(9)]
SCHEMA = [
    {"context_options": [f"The {a} and Tom", f"The {a} and Ann"], "continuation": "slept.", "gold": 1} for a in LETTERS
]
LANGUAGE = [{"context": f"one two {a} \n", "continuation": "three", "category": "x"} for a in LETTERS]
DATA: dict[str, list[Any]] = {"quiz": CHOICE, "winograd": SCHEMA, "recall": LANGUAGE}
KINDS = {"quiz": "multiple_choice", "winograd": "schema", "recall": "language_modeling"}
GUESS = {"quiz": 50, "winograd": 50, "recall": 0}


def write_bundle(folder: Path, **changed: Any) -> Path:
    (folder / "eval_data" / "deep").mkdir(parents=True)
    tasks = []
    for label, lines in DATA.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "eval_data" / "deep" / f"{label}.jsonl").write_text(text)
        entry = {
            "label": label,
            "dataset_uri": f"deep/{label}.jsonl",
            "num_fewshot": [2],
            "icl_task_type": KINDS[label],
        }
        tasks.append({**entry, **({"continuation_delimiter": "\nAnswer: "} if label == "quiz" else {}), **changed})
    (folder / "core.yaml").write_text(json.dumps({"icl_tasks": tasks}))
    rows = [f"{label},a task,{guess}" for label, guess in GUESS.items()]
    (folder / "eval_meta_data.csv").write_text("Eval Task,Description,Random baseline\n" + "\n".join(rows) + "\n")
    return folder


def make_scorer(context: int = 128) -> Scorer:
    config = ModelConfig(n_layer=1, n_head=2, n_embd=16, context=context, vocab_size=TOKENIZER.vocab_size)
    model = build(config, 0)
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    return Scorer(model, TOKENIZER, Machine("cpu", "float32"))


def make_task(label: str, examples: int) -> CoreTask:
    return CoreTask(label, KINDS[label], Path(), examples, " ", 0.0)


def text_of(pair: Any) -> tuple[str, str]:
    context, continuation = pair
    assert context[0] == TOKENIZER.end_of_text
    return TOKENIZER.decode(context), TOKENIZER.decode(continuation)


def test_what_is_scored_of_each_kind() -> None:
    scorer = make_scorer()
    item = make_task("quiz", 0).item(scorer, CHOICE, 1)
    assert [text_of(pair) for pair in item.pairs] == [("Q1: ", "yes"), ("Q1: ", "no way")]
    assert item.gold == 1
    item = make_task("winograd", 0).item(scorer, SCHEMA, 0)
    assert [text_of(pair) for pair in item.pairs] == [("The a and Tom", " slept."), ("The a and Ann", " slept.")]
    (pair,) = make_task("recall", 0).item(scorer, LANGUAGE, 0).pairs
    assert text_of(pair) == ("one two a", " three"), "the delimiter is stripped with the context, and then scored"


def test_a_choice_that_begins_another_is_scored_by_its_last_token() -> None:
    data = [{"query": "Q", "choices": ["ab", "abc"], "gold": 0}]
    assert [text_of(pair)[1] for pair in make_task("quiz", 0).item(make_scorer(), data, 0).pairs] == ["b", "bc"]


@pytest.mark.parametrize("label", DATA)
def test_examples_are_solved_other_items(label: str) -> None:
    task, data = make_task(label, 3), DATA[label]
    start = task.prompt(data, 4)
    assert start == task.prompt(data, 4) != task.prompt(data, 5)
    *examples, rest = start.split("\n\n")
    solved = [task.texts(each)[each.get("gold", 0)] for each in data]
    assert rest == ""
    assert len({*examples}) == 3
    assert set(examples) <= set(solved) - {solved[4]}
    for pair in task.item(make_scorer(256), data, 4).pairs:
        context, continuation = text_of(pair)
        assert (context + continuation).startswith(start)
        assert continuation


def test_metric_is_the_mean_of_centered_accuracies(tmp_path: Path) -> None:
    folder, scorer = write_bundle(tmp_path), make_scorer()
    *tasks, total = run_tasks(["core"], scorer, core_data=folder)
    assert [each.task for each in tasks] == ["core/quiz", "core/winograd", "core/recall"]
    assert [each.items for each in tasks] == [9, 8, 8]
    for each, guess in zip(tasks, GUESS.values(), strict=True):
        assert each.chance == guess / 100
        assert each.metrics["centered"] == pytest.approx((each.score - guess / 100) / (1 - guess / 100))
    assert total.task == "core"
    assert total.score == pytest.approx(sum(each.metrics["centered"] for each in tasks) / 3)
    assert (total.chance, total.items) == (0, 25)
    (one,) = run_tasks(["core/winograd"], scorer, core_data=folder)
    assert one == tasks[1]
    (few,) = run_tasks(["core/quiz"], scorer, core_data=folder, limit=4)
    assert few.items == 4


def test_greedy_continuations_are_counted(tmp_path: Path) -> None:
    """A model that always says the same token is right where exactly that token is asked for."""
    folder = write_bundle(tmp_path, continuation_delimiter="")
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 16, "context": 64}
    model = build(ModelConfig(**shape, vocab_size=TOKENIZER.vocab_size, head_bias=True), 0)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias[TOKENIZER.encode("e")[0]] = 1
    lines = [{"context": "a", "continuation": text} for text in ("e", "ee", "f", "ef", "fe")]
    (folder / "eval_data/deep/recall.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (found,) = run_tasks(["core/recall"], Scorer(model, TOKENIZER, Machine("cpu", "float32")), core_data=folder)
    assert found.score == 2 / 5


def test_data_that_is_missing_or_broken_is_a_user_error(tmp_path: Path) -> None:
    scorer = make_scorer()
    assert len(CORE_TASKS) == len(set(CORE_TASKS)) == 22
    with pytest.raises(UserError, match="not part of fledge") as caught:
        run_tasks(["core/piqa"], scorer)
    assert "--core-data" in caught.value.hint
    with pytest.raises(UserError, match="does not hold the CORE tasks"):
        run_tasks(["core"], scorer, core_data=tmp_path / "nothing")
    folder = write_bundle(tmp_path / "a")
    with pytest.raises(UserError, match="no task 'quizz'") as caught:
        run_tasks(["core/quizz"], scorer, core_data=folder)
    assert caught.value.hint == "did you mean 'quiz'?"
    path = folder / "eval_data" / "deep" / "quiz.jsonl"
    for line in (
        {"query": "a", "choices": ["b"]},
        {"query": "a", "choices": ["b"], "gold": 1},
        {**CHOICE[0], "gold": "x"},
    ):
        path.write_text(json.dumps(CHOICE[0]) + "\n" + json.dumps(line))
        with pytest.raises(UserError, match=r"line 2 of .*quiz\.jsonl"):
            run_tasks(["core/quiz"], scorer, core_data=folder)
    with pytest.raises(UserError, match="unknown kind 'essay'"):
        run_tasks(["core"], scorer, core_data=write_bundle(tmp_path / "b", icl_task_type="essay"))
    with pytest.raises(UserError, match="is outside of it"):
        read_core(write_bundle(tmp_path / "c", dataset_uri="../../secret.jsonl"))
    (folder / "core.yaml").write_text("icl_tasks: [")
    with pytest.raises(UserError, match="does not hold the CORE tasks"):
        read_core(folder)


def test_common_length() -> None:
    assert common_length([[1, 2, 3], [1, 2, 4]]) == 2
    assert common_length([[1, 2], [1, 2, 4]]) == 2
    assert common_length([[1], [2]]) == 0
    assert common_length([[1, 2]]) == 2
