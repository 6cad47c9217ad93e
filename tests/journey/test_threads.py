"""The number of threads is chosen when a run begins, recorded, and kept."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fledge.core import device, threads
from fledge.training import setup
from tiny import remains


@pytest.fixture(autouse=True)
def threads_stay(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def recorded(run: Path) -> int:
    found = re.search(r"^threads = (\d+)$", (run / "config.toml").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def test_resume_keeps_the_threads(home, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = home.train("whole", "--train.threads", "3")
    assert recorded(whole) == torch.get_num_threads() == 3
    stopped = home.train("stopped", "--train.threads", "3", "--train.steps", "6", "--optim.schedule", "constant")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    home.train("other")
    assert torch.get_num_threads() == 1
    assert home.do("resume", "stopped", "--train.steps", "12", "--allow-changes") == 0
    assert recorded(stopped) == torch.get_num_threads() == 3


def test_more_threads_than_cores_are_kept_with_a_warning(
    home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(setup, "usable_cores", lambda: 1)
    home.train("a", "--train.threads", "2")
    assert "warning: 2 threads on 1 core: training takes longer than with --train.threads 1" in capsys.readouterr().err
    assert torch.get_num_threads() == 2


def test_other_threads_need_allow_changes(home, capsys: pytest.CaptureFixture[str]) -> None:
    home.train("a", "--train.threads", "1")
    assert home.do("resume", "a", "--train.threads", "2", "--train.steps", "13") == 2
    error = capsys.readouterr().err
    assert "train.threads: 1 → 2" in error
    assert "--allow-changes" in error


@pytest.mark.parametrize("wrong", ["0", "-1", "1.5", "all"])
def test_impossible_numbers_are_refused(home, wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert home.do("train", str(home.toml), f"--train.threads={wrong}") == 2
    assert "train.threads" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("load", "given", "expected"), [(0.2, None, 8), (1.1, None, 7), (2.0, None, 6), (3.0, None, 8), (1.1, "8", 8)]
)
def test_new_run_leaves_a_busy_core(
    home, monkeypatch: pytest.MonkeyPatch, load: float, given: str | None, expected: int
) -> None:
    monkeypatch.setattr(device, "THREADS_OF_TORCH", 8)
    monkeypatch.setattr(threads, "usable_cores", lambda: 8)
    monkeypatch.setattr(device, "other_load", lambda: load)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    run = home.train("a", "--train.steps", "1")
    assert recorded(run) == torch.get_num_threads() == expected


def test_new_run_from_another_chooses_again(home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.train("a", "--train.threads", "3")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert home.do("train", "--init", "a", "--run", "b", "--train.steps", "2") == 0
    assert recorded(home.runs / "b") == 2


def test_busy_machine_is_named_once(home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(setup, "other_load", lambda: 1.0)
    home.train("a")
    said = capsys.readouterr().err
    assert said.count("warning: other programs keep 1.0 of") == 1
    assert "warning: other programs keep 1.0 of" in (home.runs / "a" / "events.jsonl").read_text()
    monkeypatch.setattr(setup, "other_load", lambda: None)
    home.train("b")
    assert "other programs" not in capsys.readouterr().err


def test_same_bits_however_threads_wait(home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Briefly, as fledge has it; for long; and as in the process of the tests, where they sleep at once."""
    runs = [remains(home.train("here"))]
    for name, variables in {"brief": {}, "spinning": {"GOMP_SPINCOUNT": "50000"}}.items():
        for each in threads.WAITING_POLICIES:
            monkeypatch.delenv(each, raising=False)
        for each, value in variables.items():
            monkeypatch.setenv(each, value)
        command = [sys.executable, "-m", "fledge", *home.training(name)]
        subprocess.run(command, check=True, capture_output=True)
        runs.append(remains(home.runs / name))
    assert runs[0] == runs[1] == runs[2]
