"""On one GPU: every precision learns, to the same bits again; short memory is halved; a CPU reads the result."""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fledge.base.machine import Machine
from fledge.batches.loader import Loader
from fledge.batches.order import Order
from fledge.datasets.shards import Split
from fledge.model.config import ModelConfig
from fledge.model.init import build
from fledge.optim.config import OptimConfig
from fledge.optim.groups import build_optimizer
from fledge.track.sinks import read_metrics
from fledge.train.fitting import Fitting
from fledge.train.parallel import wrap
from fledge.train.step import Stepper

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

CUDA = ("--train.device", "cuda")
Outcome = Callable[[Path], dict[str, Any]]


@pytest.fixture(params=["float32", "bfloat16", "float16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_it_learns_in_every_precision(home, dtype: str) -> None:
    run = home.train("bird", *CUDA, "--train.dtype", dtype, "--train.steps", "60", "--model.vocab_size", "4096")
    losses = read_metrics(run)["train_loss"]
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.parametrize("rule", ["adamw", "muon"])
def test_the_same_seed_gives_the_same_bits_and_so_does_going_on(
    home, outcome_of: Outcome, dtype: str, rule: str
) -> None:
    words = (*CUDA, "--train.dtype", dtype, "--optim.rule", rule, "--model.dropout", "0.1", "--train.keep_last", "9")
    one = home.train("one", *words)
    other = home.train("other", *words)
    assert outcome_of(one) == outcome_of(other)
    shutil.copytree(one, home.runs / "broken")
    assert home.do("resume", "broken@6") == 0
    again = outcome_of(home.runs / "broken")
    assert (again["model"], again["optimizer"]) == (outcome_of(one)["model"], outcome_of(one)["optimizer"])


def test_compiled_it_learns_the_same(home) -> None:
    runs = [home.train(f"compile-{word}", *CUDA, "--train.compile", word) for word in ("false", "true")]
    plain, compiled = (read_metrics(run)["train_loss"] for run in runs)
    assert compiled == pytest.approx(plain, rel=0.01)


def test_a_checkpoint_of_a_gpu_speaks_on_a_cpu(home, capsys: pytest.CaptureFixture[str]) -> None:
    home.train("bird", *CUDA)
    capsys.readouterr()
    for device in ("cpu", "cuda"):
        assert home.do("generate", "bird", "--tokens", "5", "--device", device, "--greedy", "--json") == 0
    texts = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
    assert len(texts[0]) == 5
    assert texts[0] == texts[1]


def test_a_plan_measures_the_gpu(home, capsys: pytest.CaptureFixture[str]) -> None:
    assert home.do("plan", str(home.toml), "--data.corpus", str(home.text), *CUDA, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["device"] == "cuda"
    assert 0 < found["memory"] < torch.cuda.get_device_properties(0).total_memory
    assert found["step_seconds"] > 0


@pytest.fixture
def little_memory() -> Iterator[None]:
    """A gigabyte of the GPU, whatever it has."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((1 << 30) / torch.cuda.get_device_properties(0).total_memory)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.usefixtures("little_memory")
def test_where_memory_is_short_it_is_half_as_many_and_the_same_batch() -> None:
    config = ModelConfig(n_layer=4, n_head=4, n_embd=256, context=512, vocab_size=256)
    ids = np.random.default_rng(0).integers(256, size=40_000).astype(np.uint16)
    said: list[str] = []

    def stepper(size: int) -> Stepper:
        machine, optim = Machine("cuda", "bfloat16"), OptimConfig()
        model = build(config, 0)
        loss = wrap(model, machine, compile=False)
        loader = Loader(Split("train", [ids], [np.zeros(1)]), Order(len(ids), 512, 512, 0), 64, machine)
        optimizer = build_optimizer(model, optim, machine.torch_dtype)
        return Stepper(model, loss, optimizer, Fitting(loader, size, said.append), lambda _: 1.0, optim.lr, 1.0)

    bold = stepper(64)
    found = bold(0)
    assert said
    assert bold.batches.memory() < 64
    del bold
    modest = stepper(2)(0)
    assert found.loss == pytest.approx(modest.loss, rel=1e-3)
    assert found.grad_norm == pytest.approx(modest.grad_norm, rel=1e-2)
