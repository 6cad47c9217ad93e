"""A number that is none, on one rank alone, is an accident of all of them; and so is memory that one rank lacks."""

import csv
import json
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fledge.batches.loader import Batch, Loader, WindowReader
from fledge.batches.sampler import WindowSampler
from fledge.core.device import Machine
from fledge.core.distributed import World
from fledge.core.errors import UserError
from fledge.datasets.shards import Split
from fledge.training.micro_batch import AutoMicroBatch, probe
from fledge.training.objective import LossSum

POISON = """
import os
from fledge.losses import cross_entropy as losses
from fledge.training.step import TrainStep

usual, attempt, met = losses.cross_entropy_sum, TrainStep._attempt, []

def poisoned(logits, targets):
    loss = usual(logits, targets)
    return loss * float("nan") if met[-1] in (8, 9, 10) and os.environ["RANK"] == "1" else loss

def seen(self, step):
    met.append(self.skipped.batch(step))
    return attempt(self, step)

met.append(-1)
losses.cross_entropy_sum, TrainStep._attempt = poisoned, seen
"""


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_nan_on_one_rank_rolls_all_ranks_back(
    home: Any, together: Callable[..., str], tmp_path: Path, parallel: str
) -> None:
    poison = tmp_path / "poison.py"
    poison.write_text(POISON)
    steps = ("--train.steps", "16", "--train.save_every", "6", "--train.eval_every", "0", "--train.sample_every", "0")
    together(home.training("bird", *steps, "--train.parallel", parallel), 2, first=str(poison))
    run = home.runs / "bird"
    with (run / "metrics.csv").open(newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(1, 17))
    told = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    accidents = [event for event in told if event["event"] == "Anomaly"]
    assert [accident["step"] for accident in accidents] == [9, 10, 11]
    assert {accident["origin"] for accident in accidents} == {"the loss"}, "the rank that met it says where"
    [rescue] = [event for event in told if event["event"] == "RolledBack"]
    assert (rescue["step"], rescue["failed_step"]) == (6, 11)


def test_ranks_prepare_a_text_in_bf16(home: Any, together: Callable[..., str]) -> None:
    steps = ("--train.steps", "2", "--train.dtype", "bfloat16", "--model.attention", "auto")
    together(home.training("bird", *steps), 2)
    config = tomllib.loads((home.runs / "bird" / "config.toml").read_text())
    assert config["model"]["attention"] in ("sdpa", "blocked")


@dataclass(frozen=True)
class WithOneShortOfMemory(World):
    """Another rank can compute no more than two sequences at once; here there is room for any number."""

    asked: tuple[int, ...] = (1, 1, 0)

    def all_reduce_max(self, number: int) -> int:
        answer, *rest = self.asked
        object.__setattr__(self, "asked", tuple(rest))
        return max(number, answer)


def test_micro_batch_fits_on_every_rank() -> None:
    ids = np.arange(100).astype(np.uint16)
    machine = Machine("cpu", "float32", World(0, 2))
    loader = Loader(WindowReader(Split("train", [ids], [np.zeros(1)]), WindowSampler(len(ids), 4, 4, 0)), 16, machine)
    tried, said = [], []

    def loss(batch: Batch) -> LossSum:
        tried.append(len(batch.inputs))
        return LossSum(torch.zeros((), requires_grad=True), torch.ones(()))

    found = probe(AutoMicroBatch(loader, 8, said.append), loss, WithOneShortOfMemory())
    assert (tried, found.size, len(said)) == ([8, 4, 2], 2, 2)
    with pytest.raises(UserError, match="not enough memory for 2 sequences"):
        found.shrink()  # in the middle of a step no rank can begin again alone
