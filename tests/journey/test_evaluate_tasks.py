"""fledge eval --suite and --tasks: scores of a run, its JSON, and the comparison with another checkpoint."""

import json
from pathlib import Path

import pytest

from fledge.recipes.evaluate_tasks import evaluate_tasks
from fledge.tasks.offline import OFFLINE_TASKS


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    lines = [{"query": "the quick", "choices": ["brown", "xxx", "fo"], "gold": n % 3} for n in range(6)]
    lines += [{"ctx": "the lazy", "endings": ["dog", "5 é"], "label": 0}]  # not in the vocabulary
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def json_of(home, capsys: pytest.CaptureFixture[str], *words: str) -> dict:  # type: ignore[no-untyped-def,type-arg]
    capsys.readouterr()
    assert home.do("eval", "bird", *words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_suite_as_json(trained, capsys: pytest.CaptureFixture[str]) -> None:
    found = json_of(trained, capsys, "--split", "none", "--suite", "offline")
    assert [each["task"] for each in found["tasks"]] == OFFLINE_TASKS
    assert found["run"] == "bird"
    assert "item_scores" not in found["tasks"][0]
    by_name = {each["task"]: each for each in found["tasks"]}
    assert by_name["addition-1-digit"]["items"] == 0, "the text of this model has no digits"
    assert by_name["addition-1-digit"]["score"] is None
    assert by_name["addition-1-digit"]["skipped"] == 96


def test_table_comparison_and_split_together(trained, questions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--tasks", f"{questions},induction", "--compare", "bird@20")
    found = json_of(trained, capsys, *words)
    assert found["loss"] > 0
    assert [(each["task"], each["items"], each["skipped"]) for each in found["tasks"]] == [
        ("induction", 160, 0),
        ("mine", 6, 1),
    ]
    assert [each["task"] for each in found["task_differences"]] == ["induction", "mine"]
    assert found["task_differences"][1]["difference"]["units"] == 6
    assert trained.do("eval", "bird", *words) == 0
    text = capsys.readouterr().out
    assert "mine" in text
    assert "      1 item skipped; accuracy" in text  # first, so that it is not cut off
    assert "skipped: not in the tokenizer's vocabulary" in text
    assert "paired bootstrap" in text
    assert max(len(line) for line in text.splitlines() if "figure: " not in line) <= 80  # its path may be long


def test_recipe_gives_what_the_command_prints(trained, questions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluate_tasks("bird", [str(questions)], runs=trained.runs, device="cpu", limit=3)
    (shown,) = json_of(trained, capsys, "--split", "none", "--tasks", str(questions), "--limit", "3")["tasks"]
    assert (found.tasks[0].score, found.tasks[0].items) == (shown["score"], shown["items"])
    assert found.tasks[0].items == 3


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--tasks", "missing.jsonl"), "cannot read 'missing.jsonl'"),
        (("--tasks", "core/piqa"), "--core-data DIR"),
        (("--tasks", "a,,b"), "separate the names by commas"),
        (("--suite", "online"), "invalid choice: 'online'"),
        (("--tasks", "copying", "--limit", "0"), "'0' is not a positive integer"),
        (("--suite", "offline", "--limit", "3"), "--limit belongs to --tasks"),
        (("--suite", "offline", "--core-data", "x"), "--core-data belongs to --tasks"),
        (("--suite", "offline", "--figure", "x.png"), "--figure shows the loss of a split"),
        (("--continuations", "3", "--compare", "bird"), "--compare compares a split or tasks"),
    ],
)
def test_mistakes_are_explained(
    trained, words: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained.do("eval", "bird", "--split", "none", *words) == 2
    shown = capsys.readouterr()
    assert complaint in shown.err
    assert "hint:" in shown.err
    assert shown.out == ""
