"""Through NCCL: DDP and FSDP of one process compute what no wrapper computes; two GPUs learn what one learns."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

# One process that is a group: its losses over three steps, plain and wrapped.
WORLD_OF_ONE = """
import sys, torch, torch.distributed as dist
from torch.distributed import HashStore
from fledge.core.distributed import ProcessGroup
from fledge.core.device import Machine
from fledge.model.config import ModelConfig
from fledge.model.init import build
from fledge.optim.config import OptimConfig
from fledge.optim.groups import build_optimizer
from fledge.training.parallel import LossModel, use_deterministic_algorithms, wrap_ddp, wrap_fsdp
from fledge.batches.loader import Batch
from fledge.training.objective import NextTokenObjective

device, parallel, compile = sys.argv[1:]
store = HashStore()
backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
dist.init_process_group(backend, store=store, rank=0, world_size=1)
use_deterministic_algorithms()
world = ProcessGroup(0, 1, 0, store=store, persistent_store=store)
config = ModelConfig(n_layer=2, n_head=2, n_embd=32, context=32, vocab_size=97)
ids = torch.randint(97, (4, 33), generator=torch.Generator().manual_seed(0)).to(device)
inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

def losses(wrap, machine):
    model = build(config, 0).to(device)
    loss = wrap(model, machine)
    optimizer = build_optimizer(model, OptimConfig(), torch.float32)
    call = torch.compile(loss) if compile == "true" else loss
    found = []
    for _ in range(3):
        loss.set_gradient_sync(True)
        value = call(Batch(inputs, targets)).total / targets.numel()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(float(value.detach()))
    return found

plain = losses(lambda model, machine: LossModel(model, machine), Machine(device, "float32"))
around = {"ddp": wrap_ddp, "fsdp": wrap_fsdp}[parallel]
wrapped = losses(lambda model, machine: around(model, machine, NextTokenObjective()), Machine(device, "float32", world))
print(plain, wrapped)
assert plain[0] > plain[2] and all(abs(a - b) < 1e-5 for a, b in zip(plain, wrapped)), (plain, wrapped)
dist.destroy_process_group()
"""


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("compile", ["false", "true"])
def test_a_group_of_one_learns_the_same(device: str, parallel: str, compile: str) -> None:
    words = [sys.executable, "-c", WORLD_OF_ONE, device, parallel, compile]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr


def losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("compile", ["false", "true"])
def test_two_gpus_learn_what_one_learns(home: Any, parallel: str, compile: str) -> None:
    settings = ("--train.device", "cuda", "--train.parallel", parallel, "--train.compile", compile)
    alone = home.train("alone", *settings)
    words = [*TORCHRUN, "-m", "--", "fledge", *home.training("two", *settings)]
    done = subprocess.run(words, env=dict(os.environ), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert losses(home.runs / "two") == pytest.approx(losses(alone), abs=1e-4)
    assert home.do("resume", "two@6") == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_more_processes_than_gpus_are_refused(home: Any) -> None:
    words = [*TORCHRUN, "-m", "--", "fledge", *home.training("two", "--train.device", "cuda")]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "0"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode != 0
    assert "rank 1 has no GPU" in done.stderr
