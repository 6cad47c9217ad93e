"""The loss around the model, whole or in portions; a compiler that fails is left, whatever it has to say for itself."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from fledge.base.machine import Machine
from fledge.loss import summed_cross_entropy
from fledge.model.config import ModelConfig
from fledge.model.count import LARGE_VOCABULARY, PORTION
from fledge.model.gpt import GPT
from fledge.model.head import Head
from fledge.model.init import build
from fledge.train.parallel import LossModel, wrap

CPU = Machine("cpu", "float32")
IDS = torch.zeros(2, 8, dtype=torch.long)


@pytest.mark.parametrize(
    ("words", "told"), [("no such pass\nmore", "no such pass"), ("", "TorchDynamoException")], ids=str
)
def test_the_plain_model_takes_over_and_the_reason_is_one_line(
    words: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, said = [], []

    def broken(inputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(inputs)
        raise TorchDynamoException(words)

    monkeypatch.setattr(torch, "compile", lambda *_, **__: broken)
    model = build(ModelConfig(n_layer=1, n_head=2, n_embd=16, context=8, vocab_size=11), 0)
    compiled, plain = wrap(model, CPU, compile=True, warn=said.append), wrap(model, CPU, compile=False)
    assert [float(compiled(IDS, IDS).detach()) for _ in range(2)] == [float(plain(IDS, IDS).detach())] * 2
    assert len(calls) == 1
    assert [f"({told})" in line and "\n" not in line for line in said] == [True]


LARGE = ModelConfig(n_layer=1, n_head=1, n_embd=8, context=300, vocab_size=LARGE_VOCABULARY)
ROWS = torch.randint(LARGE_VOCABULARY, (5, 301), generator=torch.Generator().manual_seed(0))


def taught(model: GPT, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    (loss / 7).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "parts",
    [{}, {"tied": True}, {"softcap": 0.5}, {"head_bias": True, "tied": True}],
    ids=lambda parts: "+".join(parts),
)
@pytest.mark.parametrize(("dtype", "near"), [("float32", 1e-6), ("bfloat16", 2e-2), ("float16", 2e-2)])
def test_a_large_vocabulary_is_learned_in_portions_and_nobody_sees_a_difference(
    parts: dict[str, Any], dtype: Any, near: float
) -> None:
    assert PORTION < ROWS.numel() - 5 < 2 * PORTION  # two portions, and not of one size
    model, machine = build(replace(LARGE, **parts), 0), Machine("cpu", dtype)
    ours, inputs, targets = LossModel(model, machine), ROWS[:, :-1], ROWS[:, 1:]
    with machine.autocast():
        plain = summed_cross_entropy(model(inputs), targets)
    loss = ours(inputs, targets)
    assert type(loss.grad_fn).__name__ == "_InPortionsBackward"
    torch.testing.assert_close(loss, plain, rtol=near, atol=0)
    theirs = taught(model, plain)
    for name, gradient in taught(model, loss).items():
        atol = near * float(theirs[name].abs().max())
        torch.testing.assert_close(gradient, theirs[name], rtol=near, atol=10 * atol, msg=name)


def test_a_head_that_is_not_known_is_asked_for_all_its_scores() -> None:
    class Odd(Head):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    model = build(LARGE, 0)
    model.head.__class__ = Odd
    with torch.no_grad():
        expected = summed_cross_entropy(model(ROWS[:, :-1]), ROWS[:, 1:])
    assert torch.equal(LossModel(model, CPU)(ROWS[:, :-1], ROWS[:, 1:]).detach(), expected)


def test_twice_the_same_bits() -> None:
    model = build(LARGE, 0)
    one, other = (taught(model, LossModel(model, CPU)(ROWS[:, :-1], ROWS[:, 1:])) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_exactness_is_known_to_the_compiler_and_does_not_import_it() -> None:
    code = """
import sys, torch
from fledge.train.parallel import exact
exact()
assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
assert "torch._inductor" not in sys.modules
import torch._inductor.config as compiler
assert compiler.deterministic
compiler.deterministic = False
exact()
assert compiler.deterministic
"""
    subprocess.run([sys.executable, "-c", code], check=True)
