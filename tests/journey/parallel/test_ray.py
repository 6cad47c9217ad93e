"""Ray places the processes of a training: they learn what they learn under torchrun, and are started again."""

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
SEEN = ("train/loss", "val/loss")
LONGEST = 240  # seconds for what takes a few on a quiet machine


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with small_ray() as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # one process less to start
        yield address


def by_ray(cluster: str, workers: int = 2) -> tuple[str, ...]:
    return ("--launcher", "ray", "--workers", str(workers), "--address", cluster)


def losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) for name in SEEN if row[name]]


def newest(run: Path) -> int:
    return max((saved.step for saved in store.complete_checkpoints(run / "checkpoints")), default=0)


def begun(run: Path) -> int:
    """How often."""
    return (run / "events.jsonl").read_text().count('"Started"')


def wait_for(happened: Callable[[], bool], process: Any) -> None:
    end = time.monotonic() + LONGEST
    while not happened():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            pytest.fail(f"it did not come so far: {process.communicate()[1]}")
        time.sleep(0.05)


def process_that_writes(runs: Path, name: str) -> int:
    """The one that has this file in one of the hidden folders open."""
    for handle in Path("/proc").glob("[0-9]*/fd/[0-9]*"):
        with contextlib.suppress(OSError):
            file = handle.readlink()
            if file.name == name and file.parent.parent == runs:
                return int(handle.parts[2])
    pytest.fail(f"nobody writes {name}")


def test_killed_and_replaced_stopped_and_gone_on_with_a_run_learns_what_it_learns_under_torchrun(
    home: Any, together: Callable[..., str], cluster: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One run for all, as every start of Ray Train is a dozen processes."""
    run = home.runs / "two"
    # It never comes to its last step, so it is at work whenever something happens to it.
    started = home.start(home.training("two", *SETTINGS, "--train.steps", "1000000", *by_ray(cluster)))
    wait_for(lambda: newest(run) >= 10, started)
    os.kill(process_that_writes(home.runs, "rank-1.log"), signal.SIGKILL)
    wait_for(lambda: begun(run) == 2, started)
    started.send_signal(signal.SIGTERM)
    said = started.communicate(timeout=LONGEST)[1]
    assert started.returncode == 128 + signal.SIGTERM, said
    assert "resuming 'two' after step" in said
    assert "continue with: fledge resume two" in said

    steps = str(newest(run) + 3)
    assert home.do("resume", "two", "--train.steps", steps, "--allow-changes", *by_ray(cluster, workers=1)) == 0
    told = capsys.readouterr()
    assert f"'two' is trained: step {int(steps):,}" in told.out
    assert f"finished at step {steps}" in told.err, "what the first says is heard here"
    assert not list(home.runs.glob(".ray-*"))
    together(home.training("one", *SETTINGS, "--train.steps", steps), 2)
    assert losses(run) == pytest.approx(losses(home.runs / "one"), abs=1e-5)


def test_what_the_cluster_has_no_room_for_is_refused(
    home: Any, cluster: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray would wait for ever."""
    assert home.do(*home.training("two", "--train.batch", "9", *by_ray(cluster))) == 2
    assert "train.batch = 9 cannot be shared by 2 processes" in capsys.readouterr().err
    assert home.do(*home.training("two", "--train.batch", "6", *by_ray(cluster, workers=3))) == 2
    assert "the Ray cluster has 2 cores: too few for 3 processes" in capsys.readouterr().err
    assert not home.runs.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "2"], "--workers is for --launcher ray"),
        (["--address", "here:1"], "--address is for --launcher ray"),
        (["--launcher", "ray"], "must know which run to go on with"),
        (["--launcher", "ray", "--run", "a/b"], "cannot be named 'a/b'"),
        (["--launcher", "ray", "--run", "two", "--address", "nowhere"], "no Ray cluster at 'nowhere'"),
    ],
)
def test_mistakes_are_refused_before_any_ray_is_asked(
    home: Any, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert home.do("train", str(home.toml), "--data.corpus", str(home.text), *words) == 2
    assert message in capsys.readouterr().err


def test_one_launcher_at_a_time(home: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert home.do("train", str(home.toml), "--run", "two", "--launcher", "ray") == 2
    assert "--launcher ray starts its own processes" in capsys.readouterr().err


def test_a_run_that_is_there_is_not_begun_again_and_one_that_is_looked_at_not_launched(
    home: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    home.train("bird", "--train.steps", "1")
    assert home.do(*home.training("bird", "--launcher", "ray")) == 2
    assert "a run named 'bird' exists already" in capsys.readouterr().err
    assert home.do("resume", "bird", "--verify", "--launcher", "ray") == 2
    assert "leave settings and --launcher out" in capsys.readouterr().err


def test_without_ray_train_it_is_said_what_to_install(
    home: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray.train.torch", None)
    assert home.do("train", str(home.toml), "--run", "two", "--launcher", "ray") == 2
    assert "pip install 'fledge[ray]'" in capsys.readouterr().err
