"""On GPUs, through NCCL: two of them learn what one learns."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]


def losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row["train_loss"]) for row in csv.DictReader(file) if row["train_loss"]]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("compile", ["false", "true"])
def test_two_gpus_learn_what_one_learns(home: Any, parallel: str, compile: str) -> None:
    settings = ("--train.device", "cuda", "--train.parallel", parallel, "--train.compile", compile)
    alone = home.train("alone", *settings)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [*torchrun, "-m", "--", "fledge", *home.training("two", *settings)]
    done = subprocess.run(words, env=dict(os.environ), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert losses(home.runs / "two") == pytest.approx(losses(alone), abs=1e-4)
    assert home.do("resume", "two@6") == 0


def test_more_processes_than_gpus_are_refused(home: Any) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [*torchrun, "-m", "--", "fledge", *home.training("two", "--train.device", "cuda")]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "0"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode != 0
    assert "rank 1 has no GPU" in done.stderr
