"""Ray places the processes of a training: they learn what they learn under torchrun, and are started again."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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


def rank(number: int, run: str) -> int | None:
    """The process that trains as this rank of `run`."""
    for entry in Path("/proc").iterdir():
        try:
            told = (entry / "environ").read_bytes()
        except OSError:
            continue
        if f"FLEDGE_TEST_RUN={run}".encode() in told and b"forkserver" in (entry / "cmdline").read_bytes():
            return int(entry.name) if number >= 0 else None
    return None


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
