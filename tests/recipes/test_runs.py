"""The table of runs: their states, the last saved step, trials of sweeps."""

import shutil
from pathlib import Path

import pytest

from fledge.cli.main import main
from fledge.runs.run_folder import open_run
from fledge.runs.summary import RunSummary, summarize_runs
from tiny import TINY_TOML, write_text


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    (folder / "tiny.toml").write_text(TINY_TOML)
    text = write_text(folder / "text")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEDGE_CACHE", str(folder / "cache"))
        words = ["train", str(folder / "tiny.toml"), "--run", "bird", "--data.corpus", str(text)]
        assert main([*words, "--runs", str(folder / "runs")]) == 0
    return folder / "runs"


@pytest.fixture
def copied(runs: Path, tmp_path: Path) -> Path:
    shutil.copytree(runs, tmp_path / "runs")
    return tmp_path / "runs"


def summary(runs: Path) -> RunSummary:
    (found,) = summarize_runs(runs)
    return found


def test_finished_run(runs: Path) -> None:
    found = summary(runs)
    assert (found.state, found.step, found.saved_step, found.steps) == ("finished", 12, 12, 12)
    assert found.best_step in found.checkpoints
    assert found.bits_per_byte is not None


def test_run_that_is_being_trained(runs: Path) -> None:
    run = open_run("bird", runs)
    assert not run.is_locked()
    with run.lock():
        assert run.is_locked()
        assert summary(runs).state == "running"


@pytest.mark.parametrize(("reason", "state"), [("interrupted", "interrupted"), ("failed", "failed"), (None, "killed")])
def test_run_that_was_stopped(copied: Path, reason: str | None, state: str) -> None:
    shutil.rmtree(copied / "bird" / "checkpoints" / "step-00000012")
    events = copied / "bird" / "events.jsonl"
    lines = events.read_text().splitlines(keepends=True)
    assert '"Ended"' in lines[-1]
    events.write_text("".join(lines[:-1] + ([lines[-1].replace("finished", reason)] if reason else [])))
    found = summary(copied)
    assert (found.state, found.step) == (state, 12)
    assert found.saved_step < 12


def test_trials_of_a_sweep_are_listed_with_the_sweep(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / "bird").rename(copied / "trial-0001")
    (copied / "search").mkdir()
    (copied / "trial-0001").rename(copied / "search" / "trial-0001")
    assert summarize_runs(copied) == []
    (copied / "search" / "sweep.journal").touch()
    assert summary(copied).run == "search/trial-0001"
    assert main(["generate", "search/trial-0001", "--tokens", "1", "--runs", str(copied)]) == 0
    assert main(["runs", "--runs", str(copied)]) == 0
    assert "search/trial-0001" in capsys.readouterr().out


def test_table_shows_unknown_values_as_dashes(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(copied / "bird" / "checkpoints")
    (copied / "bird" / "checkpoints").mkdir()
    (copied / "bird" / "metrics.csv").unlink()
    assert main(["runs", "--runs", str(copied)]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.split().count("-") == 2
