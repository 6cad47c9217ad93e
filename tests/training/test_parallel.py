"""The loss around the model: all logits at once or in chunks, and repeatable."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fledge.batches.loader import Batch
from fledge.core.device import Machine
from fledge.losses.cross_entropy import cross_entropy_sum
from fledge.model.config import ModelConfig
from fledge.model.flops import LARGE_VOCABULARY, LOSS_CHUNK_TOKENS
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.training.objective import next_token_objective
from fledge.training.parallel import wrap

CPU = Machine("cpu", "float32")
LARGE = ModelConfig(n_layer=1, n_head=1, n_embd=8, context=300, vocab_size=LARGE_VOCABULARY)
ROWS = torch.randint(LARGE_VOCABULARY, (5, 301), generator=torch.Generator().manual_seed(0))
INPUTS, TARGETS = ROWS[:, :-1].contiguous(), ROWS[:, 1:].contiguous()
BATCH = Batch(INPUTS, TARGETS)


def gradients_of(model: GPT, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    (loss / 7).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "parts",
    [{}, {"tied": True}, {"softcap": 0.5}, {"head_bias": True, "tied": True}],
    ids=lambda parts: "+".join(parts),
)
@pytest.mark.parametrize(("dtype", "near"), [("float32", 1e-6), ("bfloat16", 2e-2), ("float16", 2e-2)])
def test_chunked_loss_equals_the_reference(parts: dict[str, Any], dtype: Any, near: float) -> None:
    assert LOSS_CHUNK_TOKENS < INPUTS.numel() < 2 * LOSS_CHUNK_TOKENS  # two chunks, not of one size
    model, machine = build(replace(LARGE, **parts), 0), Machine("cpu", dtype)
    with machine.autocast():
        reference = cross_entropy_sum(model(INPUTS), TARGETS)
    loss = wrap(model, machine, next_token_objective(machine, chunked=True))(BATCH).total
    assert type(loss.grad_fn).__name__ == "_ChunkedBackward"
    torch.testing.assert_close(loss, reference, rtol=near, atol=0)
    theirs = gradients_of(model, reference)
    for name, gradient in gradients_of(model, loss).items():
        atol = near * float(theirs[name].abs().max())
        torch.testing.assert_close(gradient, theirs[name], rtol=near, atol=10 * atol, msg=name)


@pytest.mark.parametrize("chunked", [True, False])
def test_gradients_are_deterministic(chunked: bool) -> None:
    model = build(LARGE, 0)
    loss = wrap(model, CPU, next_token_objective(CPU, chunked=chunked))
    one, other = (gradients_of(model, loss(BATCH).total) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_determinism_is_set_without_importing_the_compiler() -> None:
    code = """
import sys, torch
from fledge.training.parallel import use_deterministic_algorithms
use_deterministic_algorithms()
assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
assert "torch._inductor" not in sys.modules
import torch._inductor.config as compiler
assert compiler.deterministic
compiler.deterministic = False
use_deterministic_algorithms()
assert compiler.deterministic
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_activation_checkpointing_changes_no_bit(chunked: bool, dropout: float) -> None:
    config = replace(LARGE, n_layer=3, n_head=2, dropout=dropout)
    found = []
    for checkpointed in (False, True):
        model = build(config, 0)
        loss = wrap(model, CPU, next_token_objective(CPU, chunked=chunked), activation_checkpointing=checkpointed)
        torch.manual_seed(0)
        found.append(gradients_of(model, loss(BATCH).total))
    assert all(torch.equal(gradient, found[1][name]) for name, gradient in found[0].items())
