"""fledge sweep: killed at any moment and continued, the same table; failed trials are rows; mistakes are refused."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from fledge.sweep import workers
from fledge.sweep.space import read_sweep
from small_ray import small_ray

pytest.importorskip("optuna")
from fledge.runs.names import JOURNAL
from fledge.sweep.study import Study

SWEEP = """
[sweep]
preset = "{preset}"
trials = 4
seed = 2
[space]
"optim.lr" = {{low = 1e-3, high = 1e-1, log = true}}
"model.n_embd" = [15, 16]
[data]
corpus = "{text}"
"""
SHORT = "[train]\nsteps = 8\neval_every = 4\nsave_every = 2\n"


class Sweeps:
    """A home with the file of a sweep."""

    def __init__(self, home: Any) -> None:
        self.home, self.file = home, home.folder / "rates.toml"
        self.text = SWEEP.format(preset=home.toml, text=home.text) + SHORT
        self.file.write_text(self.text)

    def words(self, *words: str) -> list[str]:
        return list(self.home.words("sweep", str(self.file), *words))

    def do(self, *words: str) -> int:
        return int(self.home.do("sweep", str(self.file), *words))

    def table(self, name: str = "rates") -> list[dict[str, Any]]:
        trials = Study(self.home.runs / name, read_sweep(self.file)).trials()
        return [{"trial": trial.name, **asdict(trial)} for trial in trials]


@pytest.fixture
def sweeps(home: Any, monkeypatch: pytest.MonkeyPatch) -> Sweeps:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Sweeps(home)


def wait_for_checkpoint(run: Path) -> None:
    end = time.monotonic() + 90
    while not list(run.glob("checkpoints/step-*")):
        assert time.monotonic() < end, f"{run} has none"
        time.sleep(0.02)


def test_killed_sweep_continues_to_the_same_table(sweeps: Sweeps, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweeps.do("--run", "whole", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    finished = [trial for trial in sweeps.table("whole") if trial["state"] == "finished"]
    failed = [trial for trial in sweeps.table("whole") if trial["state"] == "failed"]
    assert len(finished) > 1
    assert failed
    assert {trial["settings"]["model.n_embd"] for trial in failed} == {15}
    assert "model.n_embd = 15 is not divisible" in failed[0]["reason"]
    losses = [trial["loss"] for trial in answer["trials"]]
    assert losses == sorted(trial["loss"] for trial in finished) + [None] * len(failed), "best first"
    assert answer["best"] == answer["trials"][0]["trial"]
    assert Path(answer["picture"]).read_bytes().startswith(b"\x89PNG")

    begun = sweeps.home.start(sweeps.words("--run", "cut"))
    last = sweeps.home.runs / "cut" / f"trial-{finished[-1]['number']:04d}"
    wait_for_checkpoint(last)
    begun.kill()
    begun.communicate()
    assert sweeps.do("--run", "cut") == 0
    said = capsys.readouterr()
    assert "continuing 'cut'" in said.err
    assert sweeps.table("cut") == sweeps.table("whole")
    for column in ("trial", "val/loss", "step", "state", "optim.lr", "model.n_embd"):
        assert column in said.out.splitlines()[0]
    command = said.out.splitlines()[-1].partition("next: fledge ")[2].split()
    assert sweeps.home.do(*command[: command.index("--runs")], "--train.steps", "9") == 0, "the best, trained longer"


def test_repeated_command_trains_only_additional_trials(sweeps: Sweeps) -> None:
    sweeps.file.write_text(sweeps.text.replace("[15, 16]", "[16]"))
    assert sweeps.do("--trials", "1") == 0
    first = sweeps.table()
    written = (sweeps.home.runs / "rates" / "trial-0001" / "events.jsonl").read_bytes()
    assert sweeps.do("--trials", "1") == 0
    assert sweeps.table() == first
    assert sweeps.do("--trials", "2") == 0
    assert sweeps.table()[:1] == first
    assert len(sweeps.table()) == 2
    assert (sweeps.home.runs / "rates" / "trial-0001" / "events.jsonl").read_bytes() == written


def test_diverged_trial_is_a_failed_row(sweeps: Sweeps, capsys: pytest.CaptureFixture[str]) -> None:
    sweeps.file.write_text(sweeps.text.replace("{low = 1e-3, high = 1e-1, log = true}", "[1e30]"))
    assert sweeps.do("--trials", "1") == 0
    (trial,) = sweeps.table()
    assert trial["state"] == "failed"
    assert trial["reason"]
    assert "no trial finished" in capsys.readouterr().out


def test_sigterm_saves_every_trial(sweeps: Sweeps) -> None:
    sweeps.file.write_text(sweeps.text.replace("steps = 8", "steps = 4000").replace("[15, 16]", "[16]"))
    begun = sweeps.home.start(sweeps.words("--workers", "2"))
    for number in (1, 2):
        wait_for_checkpoint(sweeps.home.runs / "rates" / f"trial-000{number}")
    begun.send_signal(signal.SIGTERM)
    said = begun.communicate(timeout=60)[1]
    assert begun.returncode == 128 + signal.SIGTERM, said
    assert "continue with: fledge sweep" in said
    assert [trial["state"] for trial in sweeps.table()] == ["unfinished", "unfinished"]
    for number in (1, 2):
        events = (sweeps.home.runs / "rates" / f"trial-000{number}" / "events.jsonl").read_text()
        assert '"interrupted"' in events.splitlines()[-1]


def test_killed_trial_is_restarted_twice(sweeps: Sweeps, tmp_path: Path) -> None:
    jobs = iter([workers.TrialJob("one", workers.Job(Dying(tmp_path / "deaths", 2), tmp_path / "one.log"), False)])
    jobs_of_three = iter(
        [workers.TrialJob("two", workers.Job(Dying(tmp_path / "more", 3), tmp_path / "two.log"), False)]
    )
    assert [code for _, code in workers.local_workers(1)(jobs)] == [0]
    assert [code for _, code in workers.local_workers(1)(jobs_of_three)] == [128 + signal.SIGKILL]


class Dying:
    """Work that is killed so many times."""

    def __init__(self, marks: Path, times: int) -> None:
        self.marks, self.times = marks, times

    def __call__(self) -> None:
        done = len(self.marks.read_bytes()) if self.marks.exists() else 0
        if done < self.times:
            self.marks.write_bytes(b"x" * (done + 1))
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with small_ray() as address:
        yield address


def test_sweep_on_ray_has_the_same_trials(sweeps: Sweeps, cluster: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweeps.do("--run", "here", "--trials", "3") == 0
    assert sweeps.do("--run", "there", "--trials", "3", "--engine", "ray", "--workers", "2") == 0
    here, there = sweeps.table("here"), sweeps.table("there")
    assert [trial["settings"] for trial in there] == [trial["settings"] for trial in here], "no results are used yet"
    for one, other in zip(here, there, strict=True):
        assert other["state"] == one["state"]
        assert other["loss"] == (one["loss"] and pytest.approx(one["loss"], abs=1e-4))


def test_slots_are_spread_over_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for slot in range(3):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
        workers.use_slot(slot, 3)
        taken.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert taken == ["4", "7", "4"]


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        ("[space]", "[spaces]", "has no [space]", "--help"),
        ("[sweep]", "[swoop]", "has no [sweep]", "--help"),
        ('preset = "', 'preset = "demoo"\n# "', "unknown preset 'demoo'", "demo"),
        ('preset = "', '# "', "[sweep] has no preset", "preset ="),
        ("trials = 4", "trials = 0", "sweep.trials cannot be 0", "at least 1"),
        ("trials = 4", "trails = 4", "unknown setting 'sweep.trails'", "sweep.trials"),
        ("seed = 2", 'metric = "loss"', "sweep.metric cannot be 'loss'", "val/loss"),
        ("[train]", "[optim]\nlr = 0.1\n[train]", "optim.lr is set both in [optim] and in [space]", "one of them"),
        ("[train]", "[train]\nstepz = 3", "unknown setting 'train.stepz'", "train.steps"),
        ("eval_every = 4", "eval_every = 0", "train.eval_every = 0", "leave it out"),
        ("[15, 16]", "[15, 17]", "is not divisible by", "n_embd"),
        ("1e-1", "1e-9", "low = 0.001 to high = 1e-09", "below high"),
    ],
)
def test_mistake_in_the_file_is_refused_at_once(
    sweeps: Sweeps, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str, hint: str
) -> None:
    assert old in sweeps.text
    sweeps.file.write_text(sweeps.text.replace(old, new, 1))
    assert sweeps.do() == 2
    error, _, advice = capsys.readouterr().err.partition("\nhint: ")
    assert message in error
    assert hint in advice
    assert not sweeps.home.runs.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trials", "0"], "'0' is not a positive integer"),
        (["--workers", "none"], "'none' is not a positive integer"),
        (["--run", "a/b"], "a run cannot be named 'a/b'"),
        (["--address", "here:1"], "--address is for --engine ray"),
        (["--engine", "ray", "--address", "nowhere"], "there is no Ray cluster at 'nowhere'"),
    ],
)
def test_mistake_in_the_arguments_is_refused(
    sweeps: Sweeps, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert sweeps.do(*words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["optuna", "ray"])
def test_missing_package_is_named(
    sweeps: Sweeps, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert sweeps.do("--engine", "ray") == 2
    assert f"pip install 'fledge[{'sweep' if missing == 'optuna' else 'ray'}]'" in capsys.readouterr().err


def test_sweep_continues_only_with_its_settings_and_journal(sweeps: Sweeps, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweeps.do("--trials", "1") == 0
    record = sweeps.home.runs / "rates" / JOURNAL
    sweeps.file.write_text(sweeps.text.replace("steps = 8", "steps = 9").replace("1e-3", "2e-3"))
    assert sweeps.do() == 2
    said = capsys.readouterr().err
    assert "train.steps: 8 → 9" in said
    assert "space.optim.lr" in said
    sweeps.file.write_text(sweeps.text)
    record.write_bytes(record.read_bytes().replace(b"is not divisible", b"is now divisible"))
    assert sweeps.do() == 2
    assert f"'{record}' is damaged" in capsys.readouterr().err


def test_name_of_a_run_is_refused(home: Any, sweeps: Sweeps, capsys: pytest.CaptureFixture[str]) -> None:
    home.train("bird", "--train.steps", "1")
    assert sweeps.do("--run", "bird") == 2
    assert "'bird' is a run, not a sweep" in capsys.readouterr().err
