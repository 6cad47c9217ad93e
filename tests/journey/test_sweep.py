"""Many trainings, each with other settings: ranked, gone on with after a kill, and refused where they cannot be."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fledge.cli import main

pytest.importorskip("optuna")

SPACE = '"optim.lr" = {low = 1e-4, high = 1e-2, log = true}\n"model.n_embd" = [16, 32]\n'


def write(home, space: str = SPACE, sweep: str = "trials = 3\n") -> Path:
    file = home.folder / "try.toml"
    file.write_text(
        f'[sweep]\npreset = "{home.toml}"\n{sweep}[data]\ncorpus = "{home.text}"\n'
        f"[train]\nsample_every = 0\n[space]\n{space}"
    )
    return file


def swept(home, capsys: pytest.CaptureFixture[str], file: Path, *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["sweep", str(file), "--workers", "1", "--runs", str(home.runs), "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def ranking(found: dict[str, Any]) -> list[Any]:
    return [[trial["trial"], trial["loss"], trial["chosen"]] for trial in found["trials"]]


def test_trials_are_ranked_and_the_same_command_again_changes_nothing(home, capsys) -> None:
    file = write(home)
    found = swept(home, capsys, file)
    losses = [trial["loss"] for trial in found["trials"]]
    assert len(losses) == 3
    assert losses == sorted(losses)
    assert (home.runs / "try" / "sweep.png").stat().st_size > 1000
    assert ranking(swept(home, capsys, file)) == ranking(found)
    more = swept(home, capsys, file, "--trials", "4")
    assert len(more["trials"]) == 4


def test_killed_in_the_middle_it_goes_on_to_the_same_table(home, capsys) -> None:
    file = write(home)
    whole = ranking(swept(home, capsys, file, "--run", "whole"))
    words = ["sweep", str(file), "--workers", "1", "--runs", str(home.runs), "--run", "broken"]
    process = subprocess.Popen([sys.executable, "-m", "fledge", *words], start_new_session=True, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (home.runs / "broken" / "trial-0002").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert ranking(swept(home, capsys, file, "--run", "broken")) == whole


def test_a_trial_that_fails_is_a_row_and_not_the_end(home, capsys) -> None:
    found = swept(home, capsys, write(home, '"optim.lr" = [1e-3, 1e30]\n', "trials = 4\n"))
    states = [trial["state"] for trial in found["trials"]]
    assert len(states) == 4
    assert states[0] == "finished"


@pytest.mark.parametrize(
    ("space", "named"),
    [
        ('"optim.lrr" = [1, 2]\n', "optim.lrr"),
        ('"optim.lr" = {low = 1.0, high = 0.1}\n', "optim.lr"),
        ('"optim.lr" = {low = 0.0, high = 0.1, log = true}\n', "optim.lr"),
        ('"optim.lr" = []\n', "optim.lr"),
        ("", "[space]"),
        ('"train.sample_every" = [1, 2]\n', "train.sample_every"),
    ],
)
def test_a_space_that_is_none_is_refused_before_anything_starts(home, capsys, space: str, named: str) -> None:
    assert main(["sweep", str(write(home, space)), "--runs", str(home.runs)]) == 2
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert error.startswith("error: ")
    assert named in error
    assert hint.startswith("hint: ")
    assert not home.runs.exists()


@pytest.mark.parametrize("words", [("--trials", "0"), ("--workers", "0"), ("--address", "auto")])
def test_odd_words_are_refused(home, capsys, words: tuple[str, str]) -> None:
    assert main(["sweep", str(write(home)), "--runs", str(home.runs), *words]) == 2
    assert "error: " in capsys.readouterr().err
