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

STEPS = ("--train.steps", "12", "--train.batch", "8", "--train.sample_every", "0", "--train.save_every", "2")
SEEN = ("train_loss", "val_loss")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with small_ray() as address:
        yield address


def by_ray(cluster: str) -> tuple[str, ...]:
    return ("--launcher", "ray", "--workers", "2", "--address", cluster)


def losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) for name in SEEN if row[name]]


def process_that_writes(runs: Path, name: str) -> int:
    """The one that has this file in one of the hidden folders open."""
    for handle in Path("/proc").glob("[0-9]*/fd/[0-9]*"):
        with contextlib.suppress(OSError):
            file = handle.readlink()
            if file.name == name and file.parent.parent == runs:
                return int(handle.parts[2])
    pytest.fail(f"nobody writes {name}")


def test_two_workers_of_ray_learn_what_two_of_torchrun_learn(
    home: Any, together: Callable[..., str], cluster: str, capsys: pytest.CaptureFixture[str]
) -> None:
    together(home.training("one", *STEPS), 2)
    other = home.train("two", *STEPS, *by_ray(cluster))
    said = capsys.readouterr()
    assert "'two' is trained: step 12" in said.out
    assert "finished at step 12" in said.err, "what the first says is heard here"
    assert losses(other) == pytest.approx(losses(home.runs / "one"), abs=1e-5)
    assert not list(home.runs.glob(".ray-*"))
    assert home.do("train", str(home.toml), "--run", "two", *by_ray(cluster)) == 2
    assert "a run named 'two' exists already" in capsys.readouterr().err


LONG = (*STEPS, "--train.steps", "150", "--train.save_every", "10")


def wait_for(path: Path, lines: int) -> None:
    end = time.monotonic() + 90
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert time.monotonic() < end, f"{path} did not come so far"
        time.sleep(0.02)


def test_a_worker_that_is_killed_is_replaced_and_the_run_ends_the_same(
    home: Any, together: Callable[..., str], cluster: str
) -> None:
    together(home.training("one", *LONG), 2)
    started = home.start(home.training("two", *LONG, *by_ray(cluster)))
    try:
        wait_for(home.runs / "two" / "metrics.csv", 30)
        victim = process_that_writes(home.runs, "rank-1.log")
        os.kill(victim, signal.SIGKILL)
        said = started.communicate(timeout=180)[1]
    finally:
        started.kill()
    assert started.returncode == 0, said
    assert "going on with 'two' after step" in said
    assert losses(home.runs / "two") == pytest.approx(losses(home.runs / "one"), abs=1e-5)


def test_asked_to_stop_all_save_and_end(home: Any, cluster: str) -> None:
    started = home.start(home.training("bird", *LONG, "--train.steps", "4000", *by_ray(cluster)))
    try:
        wait_for(home.runs / "bird" / "metrics.csv", 30)
        started.send_signal(signal.SIGTERM)
        said = started.communicate(timeout=60)[1]
    finally:
        started.kill()
    assert started.returncode == 128 + signal.SIGTERM, said
    assert "go on with: fledge resume bird" in said
    assert '"interrupted"' in (home.runs / "bird" / "events.jsonl").read_text().splitlines()[-1]
    assert home.do("resume", "bird", "--train.steps", str(newest(home.runs / "bird") + 2), "--allow-changes") == 0


def newest(run: Path) -> int:
    return store.listed(run / "checkpoints")[0][-1].step


def test_what_a_worker_finds_wrong_is_said_here_once(
    home: Any, cluster: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert home.do("train", str(home.toml), "--data.corpus", "/nowhere", "--run", "two", *by_ray(cluster)) == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == said.count("hint: ") == 1
    assert "/nowhere" in said


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


def test_a_batch_that_workers_cannot_share_is_refused(
    home: Any, cluster: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert home.do(*home.training("two", "--train.batch", "9", *by_ray(cluster))[:-2]) == 2
    assert "train.batch = 9 cannot be shared by 2 processes" in capsys.readouterr().err


def test_without_ray_train_it_is_said_what_to_install(
    home: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray.train.torch", None)
    assert home.do("train", str(home.toml), "--run", "two", "--launcher", "ray") == 2
    assert "pip install 'fledge[ray]'" in capsys.readouterr().err
