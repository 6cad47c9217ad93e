"""On one GPU: every precision learns, to the same bits again; short memory is halved; a CPU reads the result."""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fledge.batches.loader import Batch, Loader, WindowReader
from fledge.batches.sampler import WindowSampler
from fledge.core.device import Machine
from fledge.datasets.shards import Split
from fledge.evaluation.loss import evaluate_loss
from fledge.model.config import ModelConfig
from fledge.model.init import build
from fledge.optim.config import OptimConfig
from fledge.optim.groups import build_optimizer
from fledge.tracking.sinks.csv import read_metrics
from fledge.training.compiled import CompileCheck
from fledge.training.micro_batch import AutoMicroBatch
from fledge.training.objective import next_token_objective
from fledge.training.parallel import use_deterministic_algorithms, wrap
from fledge.training.step import TrainStep

Outcome = Callable[[Path], dict[str, Any]]
OnDevice = tuple[str, ...]
# Rows of a run, without the evaluation before the first step.
Rows = slice(1, None)


@pytest.mark.parametrize("compile", ["false", "true"])
def test_every_precision_learns(home: Any, on_device: OnDevice, dtype: str, compile: str) -> None:
    settings = ("--train.dtype", dtype, "--train.steps", "60", "--model.vocab_size", "4099", "--train.compile", compile)
    run = home.train("bird", *on_device, *settings, "--train.sample_every", "0")
    metrics = read_metrics(run)
    losses = metrics["train/loss"][Rows]
    assert all(math.isfinite(loss) for loss in losses)
    assert all(norm > 0 for norm in metrics["train/grad_norm"][Rows])
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_same_seed_and_resumed_runs_are_bit_identical(
    home: Any, outcome_of: Outcome, on_device: OnDevice, dtype: str, optimizer: str
) -> None:
    words = (*on_device, "--train.dtype", dtype, "--optim.optimizer", optimizer, "--model.dropout", "0.1")
    one = home.train("one", *words, "--train.keep_last", "9")
    other = home.train("other", *words, "--train.keep_last", "9")
    assert outcome_of(one) == outcome_of(other)
    shutil.copytree(one, home.runs / "broken")
    assert home.do("resume", "broken@6") == 0
    again = outcome_of(home.runs / "broken")
    assert (again["model"], again["optimizer"]) == (outcome_of(one)["model"], outcome_of(one)["optimizer"])


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.parametrize("V", [65, 4096, 50_257])
def test_gradients_equal_the_reference(machine: Machine, V: int, chunked: bool, compile: bool) -> None:
    """Loss and every gradient, against the readable attention and the plain loss in float32."""
    use_deterministic_algorithms()
    config = ModelConfig(n_layer=2, n_head=4, n_embd=64, context=64, vocab_size=V)
    ids = torch.randint(V, (4, 65), generator=torch.Generator().manual_seed(0)).to(machine.device)
    targets = ids[:, 1:].contiguous()
    batch = Batch(ids[:, :-1].contiguous(), targets)
    reports: list[CompileCheck] = []
    model = build(config, 0)
    loss = wrap(
        model,
        machine,
        next_token_objective(machine, chunked=chunked, compile=compile),
        compile=compile,
        report=reports.append,
    )
    found = loss(batch).total / targets.numel()
    found.backward()
    assert all(report.ok for report in reports), reports
    reference = build(replace(config, attention="readable"), 0)
    plain = wrap(reference, Machine(machine.device, "float32"))(batch).total / targets.numel()
    plain.backward()
    near = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 1e-2}[machine.dtype]
    assert float(found) == pytest.approx(float(plain), rel=near)
    whole = sum(float(p.grad.square().sum()) for p in reference.parameters()) ** 0.5
    for (name, ours), theirs in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert float((ours.grad - theirs.grad).norm()) < 5 * near * whole, name


def test_compiled_runs_learn_the_same(home: Any, on_device: OnDevice) -> None:
    runs = [home.train(f"compile-{word}", *on_device, "--train.compile", word) for word in ("false", "true")]
    plain, compiled = (read_metrics(run)["train/loss"][Rows] for run in runs)
    assert compiled == pytest.approx(plain, rel=0.01)


def test_a_checkpoint_speaks_on_a_cpu(
    home: Any, on_device: OnDevice, device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    home.train("bird", *on_device)
    texts = []
    for where in ("cpu", device):
        capsys.readouterr()
        assert home.do("generate", "bird", "--tokens", "5", "--device", where, "--greedy", "--json") == 0
        texts.append(json.loads(capsys.readouterr().out)["text"])
    assert len(texts[0]) == 5
    assert texts[0] == texts[1]


def test_plan_measures_the_device(
    home: Any, on_device: OnDevice, device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert home.do("plan", str(home.toml), "--data.corpus", str(home.text), *on_device, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["device"] == device
    assert found["memory"] > 0
    assert found["step_seconds"] > 0


def test_profile_names_the_kernels(home: Any, on_device: OnDevice, device: str) -> None:
    run = home.train("bird", *on_device, "--profile")
    trace = json.loads((run / "profile" / "trace.json").read_text())
    kinds = {event.get("cat") for event in trace["traceEvents"]}
    assert "kernel" in kinds or device == "cpu"
    assert "mm" in (run / "profile" / "operators.txt").read_text()


CONFIG = ModelConfig(n_layer=4, n_head=4, n_embd=256, context=512, vocab_size=256)
IDS = np.random.default_rng(0).integers(256, size=40_000).astype(np.uint16)


def build_stepper(device: Any, size: int, said: list[str], **options: Any) -> TrainStep:
    machine, optim = Machine(device, "bfloat16"), OptimConfig()
    model = build(CONFIG, 0)
    loss = wrap(model, machine, **options)
    loader = Loader(
        WindowReader(Split("train", [IDS], [np.zeros(1)]), WindowSampler(len(IDS), 512, 512, 0)), 64, machine
    )
    optimizer = build_optimizer(model, optim, machine.torch_dtype)
    return TrainStep(model, loss, optimizer, AutoMicroBatch(loader, size, said.append), lambda _: 1.0, optim.lr, 1.0)


@pytest.fixture
def little_memory() -> Iterator[Callable[[int], None]]:
    """Limits the GPU to so many bytes, whatever it has."""

    def limit(size: int) -> None:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(size / torch.cuda.get_device_properties(0).total_memory)

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)


needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="memory is limited on a GPU only")


@needs_a_gpu
@pytest.mark.parametrize("short_at", [0, 9])
def test_out_of_memory_in_a_step_halves_the_micro_batch(little_memory: Callable[[int], None], short_at: int) -> None:
    said: list[str] = []
    bold, modest = build_stepper("cuda", 64, said), build_stepper("cuda", 2, [])
    for step in range(short_at):
        bold(step), modest(step)
    little_memory(1 << 30)
    found, reference = bold(short_at), modest(short_at)
    assert said
    assert bold.batches.state_dict() < 64
    assert found.loss == pytest.approx(reference.loss, rel=1e-2)
    assert found.grad_norm == pytest.approx(reference.grad_norm, rel=5e-2)


@needs_a_gpu
def test_out_of_memory_in_an_evaluation_halves_the_windows(little_memory: Callable[[int], None]) -> None:
    model = build(replace(CONFIG, n_embd=1024), 0).to("cuda")
    split, lengths, machine = (
        Split("val", [IDS], [np.zeros(1)]),
        np.ones(256, dtype=np.int64),
        Machine("cuda", "float32"),
    )
    plenty = evaluate_loss(model, split, lengths, machine)
    held = sum(p.nbytes for p in model.parameters())
    little_memory(held + (300 << 20))
    assert evaluate_loss(model, split, lengths, machine).loss == pytest.approx(plenty.loss, rel=1e-5)


@needs_a_gpu
def test_activation_checkpointing_saves_memory() -> None:
    peaks = []
    for checkpointed in (False, True):
        stepper = build_stepper("cuda", 64, [], activation_checkpointing=checkpointed)
        torch.cuda.reset_peak_memory_stats()
        stepper(0)
        peaks.append(torch.cuda.max_memory_allocated())
        del stepper
    assert peaks[1] < peaks[0] / 2
