"""--launcher ray: the same training as under torchrun, restarted when a process dies, stopped by a signal."""

import contextlib
import csv
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fledge.checkpoint import store
from small_ray import small_ray

pytest.importorskip("ray.train.torch", exc_type=ImportError)

SETTINGS = ("--train.batch", "8", "--train.sample_every", "0", "--train.save_every", "10", "--train.eval_every", "5")
SETTINGS += ("--optim.schedule", "constant")  # so that losses do not depend on which step is the last
LOSSES = ("train/loss", "val/loss")
TIMEOUT = 240  # seconds; a quiet machine needs a few


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with small_ray() as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # one process less to start
        yield address


def on_ray(cluster: str, workers: int = 2) -> tuple[str, ...]:
    return ("--launcher", "ray", "--workers", str(workers), "--address", cluster)


def losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) for name in LOSSES if row[name]]


def newest_checkpoint(run: Path) -> int:
    return max((saved.step for saved in store.complete_checkpoints(run / "checkpoints")), default=0)


def count_starts(run: Path) -> int:
    return (run / "events.jsonl").read_text().count('"Started"')


def wait_for(condition: Callable[[], bool], process: Any) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            pytest.fail(f"the process ended, or took too long: {process.communicate()[1]}")
        time.sleep(0.05)


def process_writing(runs: Path, name: str) -> int:
    """The process that has this file open, in a hidden folder of `runs`."""
    for handle in Path("/proc").glob("[0-9]*/fd/[0-9]*"):
        with contextlib.suppress(OSError):
            file = handle.readlink()
            if file.name == name and file.parent.parent == runs:
                return int(handle.parts[2])
    pytest.fail(f"no process writes {name}")


def test_killed_and_resumed_run_equals_one_under_torchrun(
    home: Any, together: Callable[..., str], cluster: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One run for everything, as each start of Ray Train takes a dozen processes."""
    run = home.runs / "two"
    # It never reaches its last step, so that it is still running at each kill and signal.
    started = home.start(home.training("two", *SETTINGS, "--train.steps", "1000000", *on_ray(cluster)))
    wait_for(lambda: newest_checkpoint(run) >= 10, started)
    os.kill(process_writing(home.runs, "rank-1.log"), signal.SIGKILL)
    wait_for(lambda: count_starts(run) == 2, started)
    started.send_signal(signal.SIGTERM)
    said = started.communicate(timeout=TIMEOUT)[1]
    assert started.returncode == 128 + signal.SIGTERM, said
    assert "resuming 'two' after step" in said
    assert f"continue with: fledge resume {run}" in said

    steps = str(newest_checkpoint(run) + 3)
    assert home.do("resume", "two", "--train.steps", steps, "--allow-changes", *on_ray(cluster, workers=1)) == 0
    told = capsys.readouterr()
    assert f"'two' finished at step {int(steps):,}" in told.out
    assert f"finished at step {steps}" in told.err, "the output of rank 0 is copied"
    assert not list(home.runs.glob(".ray-*"))
    together(home.training("one", *SETTINGS, "--train.steps", steps), 2)
    assert losses(run) == pytest.approx(losses(home.runs / "one"), abs=1e-5)


def test_more_processes_than_the_cluster_has_cores_are_refused(
    home: Any, cluster: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray itself would wait for ever."""
    assert home.do(*home.training("two", "--train.batch", "9", *on_ray(cluster))) == 2
    assert "train.batch = 9 is not divisible by 2 processes" in capsys.readouterr().err
    assert home.do(*home.training("two", "--train.batch", "6", *on_ray(cluster, workers=3))) == 2
    assert "the Ray cluster has 2 cores: too few for 3 processes" in capsys.readouterr().err
    assert not home.runs.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "2"], "--workers is for --launcher ray"),
        (["--address", "here:1"], "--address is for --launcher ray"),
        (["--launcher", "ray"], "--run NAME is required"),
        (["--launcher", "ray", "--run", "a/b"], "cannot be named 'a/b'"),
        (["--launcher", "ray", "--run", "two", "--address", "nowhere"], "no Ray cluster at 'nowhere'"),
    ],
)
def test_mistakes_are_refused_before_connecting(
    home: Any, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert home.do("train", str(home.toml), "--data.corpus", str(home.text), *words) == 2
    assert message in capsys.readouterr().err


def test_launcher_ray_under_torchrun_is_refused(
    home: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert home.do("train", str(home.toml), "--run", "two", "--launcher", "ray") == 2
    assert "--launcher ray starts its own processes" in capsys.readouterr().err


def test_existing_run_and_verify_are_not_launched(home: Any, capsys: pytest.CaptureFixture[str]) -> None:
    home.train("bird", "--train.steps", "1")
    assert home.do(*home.training("bird", "--launcher", "ray")) == 2
    assert "a run named 'bird' already exists" in capsys.readouterr().err
    assert home.do("resume", "bird", "--verify", "--launcher", "ray") == 2
    assert "leave out settings and --launcher" in capsys.readouterr().err


def test_missing_ray_train_is_named(
    home: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray.train.torch", None)
    assert home.do("train", str(home.toml), "--run", "two", "--launcher", "ray") == 2
    assert "pip install 'fledge[ray]'" in capsys.readouterr().err
