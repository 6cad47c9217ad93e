"""From a run to one that answers: fledge align sft, killed, resumed, asked, and given bad data."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fledge.cli.main import main
from tiny import WORDS

if TYPE_CHECKING:
    from .conftest import Home

STEPS = 30
Outcome = Callable[[Path], dict[str, Any]]


def talk(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


@pytest.fixture
def bird(home: "Home") -> "Home":
    """A home with the run 'bird', and conversations about it in chat.jsonl."""
    home.train("bird", "--model.context", "48")
    talks = [talk(f"the {a} {b}", f"{b} {a}") for a in WORDS for b in WORDS if a != b]
    write(home, "chat.jsonl", talks)
    return home


def write(home: "Home", name: str, records: list[dict[str, Any]]) -> str:
    path = home.folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def aligning(home: "Home", run: str, data: str = "chat.jsonl", *words: str) -> list[str]:
    source = str(home.folder / data)
    fast = ("--train.device", "cpu", "--train.dtype", "float32", "--train.compile", "false", "--train.log_every", "1")
    always = ("--init", "bird", "--data", source, "--run", run, "--train.steps", str(STEPS), *fast)
    return ["align", "sft", *always, "--runs", str(home.runs), *words]


def test_run_learns_and_answers(bird: "Home", capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*aligning(bird, "helper"), "--optim.lr", "0.01", "--json"]) == 0
    said = capsys.readouterr()
    assert f"{bird.folder}/chat.jsonl: 182 examples (messages)" in said.err
    assert "val: 18 conversations, held out" in said.err
    with (bird.runs / "helper" / "metrics.csv").open(newline="") as file:
        losses = [float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]]
    assert losses[-1] < 0.8 * losses[0]
    result = json.loads(said.out)
    assert result["method"] == "sft"
    assert {"val/loss", "val/accuracy", "val/perplexity"} <= result["metrics"].keys()
    assert "the " in (bird.runs / "helper" / "samples.md").read_text()
    assert bird.do("eval", "helper") == 0


def test_killed_and_resumed_ends_bit_identical(
    bird: "Home", outcome_of: Outcome, ended: Callable[..., tuple[int, str]]
) -> None:
    often = ("--train.save_every", "3", "--train.eval_every", "10")
    assert main(aligning(bird, "whole", "chat.jsonl", *often)) == 0
    process = bird.start(aligning(bird, "killed", "chat.jsonl", *often))
    ended(process, bird.runs / "killed", 11)
    assert bird.do("resume", "killed") == 0
    assert outcome_of(bird.runs / "killed") == outcome_of(bird.runs / "whole")


def test_changed_data_is_refused(bird: "Home", capsys: pytest.CaptureFixture[str]) -> None:
    assert main(aligning(bird, "helper")) == 0
    write(bird, "chat.jsonl", [talk("the dog", "dog")] * 20)
    assert bird.do("resume", "helper", "--train.steps", "40") == 2
    assert "has changed" in capsys.readouterr().err


BAD: dict[str, tuple[list[dict[str, Any]], str]] = {
    "no answers": ([{"prompt": "the dog"}] * 20, "no conversation to train on: 20 without an answer"),
    "empty answers": ([talk("the dog", " ")] * 20, "no conversation to train on: 20 with an empty answer"),
    "too long": ([talk("the dog " * 20, "dog")] * 20, "no conversation to train on: 20 too long for the context"),
    "unknown role": (
        [talk("a", "b"), {"messages": [{"role": "robot", "content": "a"}]}],
        "line 2: message 1 of 'messages' has the unknown role 'robot'",
    ),
    "unknown format": ([{"text": "the dog"}], "line 1 is no example in a known format: it has 'text'"),
    "unknown characters": ([talk("ÄÖ", "a")], "the conversation that begins 'ÄÖ': the character 'Ä'"),
}


@pytest.mark.parametrize(("records", "message"), BAD.values(), ids=BAD)
def test_bad_data_is_refused(
    bird: "Home", capsys: pytest.CaptureFixture[str], records: list[dict[str, Any]], message: str
) -> None:
    write(bird, "bad.jsonl", records)
    assert main(aligning(bird, "helper", "bad.jsonl")) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "hint: " in said
    assert not (bird.runs / "helper").exists()
