"""Advice after training: said where something stands out, with the command; nothing else."""

import json
from pathlib import Path

import pytest

from fledge.runs.advice import advise
from fledge.runs.run_folder import RunFolder

TEXT = (
    "The quick brown fox jumps over a lazy dog, while seven wizards box with jugs of liquor; judges vex my sphinx of"
    " black quartz and how vexingly quick daft zebras jump! Pack five dozen of my mugs, then waltz, bad nymph: glib"
    " jocks quiz for big fjords, where crazy Frederick bought many very exquisite opal jewels yesterday morning."
)


def make_run(
    folder: Path,
    losses: list[float],
    *,
    sample: str = TEXT,
    tokens: int = 5000,
    data: str = 'corpus = "b.txt"\nval = 0.1',
) -> RunFolder:
    """A run of 100 steps with these validation losses, evenly spread."""
    folder.mkdir()
    (folder / "config.toml").write_text(
        f"[model]\nn_layer = 1\n[train]\nsteps = 100\n[data]\n{data}\n[track]\ntemperature = 0.8\n"
    )
    rows = [f"{100 * (n + 1) // len(losses)},{loss},{tokens / 2},0.5" for n, loss in enumerate(losses)]
    (folder / "metrics.csv").write_text("\n".join(["step,val/loss,val/tokens,val/fraction", "0,9.0,,", *rows, ""]))
    event = {"event": "Sample", "time": 0, "step": 100, "prompt": "", "text": sample}
    (folder / "events.jsonl").write_text(json.dumps(event) + "\n")
    return RunFolder(folder)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs" / "bird"


def test_healthy_run_gets_no_advice(folder: Path) -> None:
    assert advise(make_run(folder, [3.0, 2.5, 2.2, 2.1, 2.09, 2.08])) == []


def test_overfitting_names_the_best_step(folder: Path) -> None:
    (advice,) = advise(make_run(folder, [3.0, 2.5, 2.6, 2.8, 3.1]))
    assert "overfits" in advice.text
    assert "2.500 at step 40" in advice.text
    assert advice.command == "fledge train runs/bird/config.toml --train.steps 40 --model.dropout 0.2"


@pytest.mark.parametrize("losses", [[3.0, 2.5, 2.505, 2.51, 2.51], [3.0, 2.6, 2.55, 2.5, 2.6]])
def test_small_or_late_rise_is_no_overfitting(folder: Path, losses: list[float]) -> None:
    assert advise(make_run(folder, losses)) == []


def test_falling_loss_suggests_more_steps(folder: Path) -> None:
    (advice,) = advise(make_run(folder, [5.0, 4.0, 3.5, 3.0, 2.7]))
    assert "fell by 23%" in advice.text
    assert advice.command == "fledge resume bird --train.steps 200 --allow-changes"


def test_repetition_suggests_a_higher_temperature(folder: Path) -> None:
    (advice,) = advise(make_run(folder, [2.5, 2.4, 2.4, 2.4, 2.4], sample="and the king of the king " * 20))
    assert "repeats" in advice.text
    assert advice.command == "fledge generate bird --temperature 1.0"
    folder.rename(folder.parent / "other")
    assert advise(make_run(folder, [2.5, 2.4, 2.4, 2.4, 2.4], sample="the the the")) == []


@pytest.mark.parametrize(
    ("data", "options"),
    [
        ('corpus = "my book.txt"\nval = 0.2', "'my book.txt' --data.val 0.4"),
        ('corpus = ["a.txt", "b.txt"]\nval = 0.3', "a.txt b.txt --data.val 0.5"),
        ('corpus = "a.txt"\nval = 0.5', None),
        ('path = "prepared"\nval = 0.2', None),
    ],
)
def test_small_split_names_the_text_and_a_larger_share(folder: Path, data: str, options: str | None) -> None:
    found = advise(make_run(folder, [2.5, 2.4, 2.4, 2.4, 2.4], tokens=162, data=data))
    command = f"fledge train runs/bird/config.toml {options} --train.eval_tokens null"
    assert [each.command for each in found] == ([command] if options else [])
    assert all("162 tokens" in each.text for each in found)


def test_split_of_usual_size_gets_no_advice(folder: Path) -> None:
    assert advise(make_run(folder, [2.5, 2.4, 2.4, 2.4, 2.4], tokens=2000)) == []


def test_at_most_three_pieces_of_advice_and_none_without_evaluations(folder: Path) -> None:
    assert len(advise(make_run(folder, [3.0, 2.0, 3.0, 4.0], sample="ab " * 200, tokens=9))) == 3
    folder.rename(folder.parent / "other")
    assert advise(make_run(folder, [])) == []
