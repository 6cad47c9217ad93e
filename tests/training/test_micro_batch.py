"""The micro-batch is as large as memory allows, and the global batch does not change with it."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fledge.batches.loader import Batch
from fledge.core.device import Machine, free_memory, total_memory
from fledge.core.errors import UserError, out_of_memory
from fledge.model.config import ModelConfig
from fledge.model.flops import LARGE_VOCABULARY, activation_bytes, chunk_bytes, parameter_count
from fledge.training import micro_batch
from fledge.training.micro_batch import AutoMicroBatch, FixedMicroBatch, estimate, parameter_bytes
from fledge.training.objective import LossSum
from fledge.training.step import TrainStep

CPU = Machine("cpu", "float32")
BATCH = 4
Build = Callable[..., TrainStep]
MODEL = ModelConfig(n_layer=2, n_head=2, n_embd=64, context=64, vocab_size=100)


@given(batch=st.integers(1, 5000), free=st.integers(0, 1 << 34), chunked=st.booleans())
def test_estimate_divides_the_batch_and_fits(batch: int, free: int, chunked: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(micro_batch, "free_memory", lambda _: free)
        size = estimate(MODEL, batch, CPU, chunked=chunked)
    assert batch % size == 0
    room = 0.8 * free - 16 * parameter_count(MODEL) - (chunk_bytes(MODEL) if chunked else 0)
    assert size == 1 or activation_bytes(MODEL, size, chunked=chunked) <= room
    larger = next((n for n in range(size + 1, batch + 1) if batch % n == 0), None)
    assert larger is None or activation_bytes(MODEL, larger, chunked=chunked) > room


def test_fsdp_divides_all_but_gathered_weights_by_the_ranks() -> None:
    model = replace(MODEL, n_layer=12)
    gathered = parameter_count(model) - 11 * parameters_of_a_block(model)
    assert parameter_bytes(model) == 16 * parameter_count(model)
    assert parameter_bytes(model, 8) == pytest.approx(2 * parameter_count(model) + 8 * gathered, rel=0.01)
    assert all(parameter_bytes(model, n) <= parameter_bytes(model) for n in range(1, 9))


def parameters_of_a_block(model: ModelConfig) -> int:
    return parameter_count(model) - parameter_count(replace(model, n_layer=model.n_layer - 1))


def test_fsdp_ranks_fit_larger_micro_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    model = replace(MODEL, n_layer=12, n_embd=256)
    monkeypatch.setattr(micro_batch, "free_memory", lambda _: 16 * parameter_count(model))
    assert estimate(model, 16, CPU, chunked=False) == 1
    assert estimate(model, 16, CPU, chunked=False, shards=8) > 1


@pytest.mark.parametrize(
    ("vocab_size", "device", "compiled", "memory", "chunked"),
    [
        (LARGE_VOCABULARY - 1, "cpu", False, 1, False),  # a small vocabulary is never worth it
        (LARGE_VOCABULARY, "cpu", False, 1 << 40, True),  # eager on a CPU: as fast, and less memory
        (50_257, "cpu", True, 1 << 40, False),  # compiled, and it fits
        (50_257, "cpu", True, 1 << 30, True),  # and it does not
        (50_257, "cuda", False, 80 << 30, False),
        (50_257, "cuda", True, 80 << 30, False),
        (50_257, "cuda", True, 8 << 30, True),
    ],
)
def test_loss_is_chunked_where_it_saves_memory_or_time(
    monkeypatch: pytest.MonkeyPatch, vocab_size: int, device: Any, compiled: bool, memory: int, chunked: bool
) -> None:
    monkeypatch.setattr(micro_batch, "total_memory", lambda _: memory)
    model, machine = replace(MODEL, vocab_size=vocab_size, context=1024), Machine(device, "bfloat16")
    assert micro_batch.should_chunk_loss(model, 32, machine, compiled=compiled) is chunked


def test_free_memory_is_below_total_memory() -> None:
    assert 0 < free_memory("cpu") <= total_memory("cpu")


def test_out_of_memory_halves_the_micro_batch_only(stepper: Build) -> None:
    said: list[str] = []
    one, other = stepper("float32"), stepper("float32")
    loss, sizes, whole = one.loss, [], one.batches
    assert isinstance(whole, FixedMicroBatch)

    def narrow(batch: Batch) -> LossSum:
        sizes.append(len(batch.inputs))
        if len(batch.inputs) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss(batch)

    one.loss, one.batches = narrow, AutoMicroBatch(whole.loader, BATCH, said.append)
    results = [one(step) for step in range(2)], [other(step) for step in range(2)]
    assert sizes == [4, 2] + [1] * 8
    assert [line.split(":")[0] for line in said] == [f"not enough memory for {n} sequences at once" for n in (4, 2)]
    for a, b in zip(*results, strict=True):
        assert (a.loss, a.tokens) == (pytest.approx(b.loss, rel=1e-5), b.tokens)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-4)


def test_fixed_size_is_refused_not_changed(stepper: Build) -> None:
    one = stepper("float32")

    def full(_: Batch) -> LossSum:
        raise torch.OutOfMemoryError("CUDA out of memory")

    one.loss = full
    with pytest.raises(UserError, match="not enough memory for 2 sequences") as refused:
        one(0)
    assert "--train.micro_batch auto" in refused.value.hint


def test_single_sequence_that_does_not_fit_is_refused(stepper: Build) -> None:
    loader = stepper("float32").batches
    assert isinstance(loader, FixedMicroBatch)
    with pytest.raises(UserError, match="a single sequence"):
        AutoMicroBatch(loader.loader, 1, print).shrink()


@pytest.mark.parametrize(("held", "size"), [(2, 2), (None, 4), (3, 4)])
def test_saved_size_is_restored_if_it_divides_the_batch(stepper: Build, held: int, size: int) -> None:
    whole = stepper("float32").batches
    assert isinstance(whole, FixedMicroBatch)
    again = AutoMicroBatch(whole.loader, BATCH, print)
    again.load_state_dict({"size": held} if held else {})
    assert again.state_dict() == {"size": size}


def test_other_errors_are_raised(stepper: Build) -> None:
    one = stepper("float32")

    def odd(_: Batch) -> LossSum:
        raise RuntimeError("shapes do not match")

    one.loss = odd
    with pytest.raises(RuntimeError, match="shapes"):
        one(0)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_out_of_memory_on_a_cpu_is_recognized() -> None:
    code = """
import resource, torch
from fledge.core.errors import out_of_memory
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
try:
    torch.empty(1 << 36)
except RuntimeError as error:
    print(out_of_memory(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
    assert not out_of_memory(ValueError("x"))
