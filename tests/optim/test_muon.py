"""Muon compared with torch.optim.Muon, which takes matrices one by one in bf16."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fledge.core.device import Machine
from fledge.model.config import ModelConfig
from fledge.model.init import build
from fledge.optim.config import OptimConfig
from fledge.optim.groups import build_optimizer
from fledge.optim.muon import Muon, newton_schulz

CPU = Machine("cpu", "float32")
MODEL = ModelConfig(n_layer=2, n_head=2, n_embd=16, context=8, vocab_size=11, bigram_rows=50)
MUON = OptimConfig(optimizer="muon", lr=3e-3, muon_lr=0.05, embed_lr=0.2, head_lr=0.01, weight_decay=0.3)


def singular_values(matrices: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(matrices.float())


@settings(max_examples=30)
@given(rows=st.integers(1, 40), columns=st.integers(1, 40), count=st.integers(1, 3), seed=st.integers(0, 99))
def test_newton_schulz_brings_singular_values_near_one(rows: int, columns: int, count: int, seed: int) -> None:
    matrices = torch.randn(count, rows, columns, generator=torch.Generator().manual_seed(seed))
    strong = singular_values(matrices)
    made = singular_values(newton_schulz(matrices, torch.float32))
    enough = strong > 0.05 * strong.amax(1, keepdim=True)  # what is nearly nothing grows, but not all the way
    assert made[enough].min() > 0.5
    assert made.max() < 1.3


def test_newton_schulz_of_zeros_is_zero() -> None:
    assert not newton_schulz(torch.zeros(2, 5, 3), torch.float32).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_newton_schulz_is_scale_invariant_beyond_fp16(dtype: torch.dtype) -> None:
    matrices = torch.randn(2, 24, 16, generator=torch.Generator().manual_seed(0))
    wanted = newton_schulz(matrices, torch.float32)
    for size in (2.0**-24, 2.0**20):
        made = newton_schulz(size * matrices, dtype).float()
        assert nn.functional.cosine_similarity(made.flatten(), wanted.flatten(), dim=0) > 0.999


@pytest.mark.parametrize("shape", [(24, 24), (48, 16), (16, 48)])
def test_updates_equal_torch_muon(shape: tuple[int, int]) -> None:
    """Their momentum is a mean and ours a sum, but only the direction counts. Both round to bf16, at other points."""
    start = [torch.randn(shape, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    ours, theirs = ([nn.Parameter(each.clone()) for each in start] for _ in range(2))
    group = {"params": ours, "lr": 0.02, "weight_decay": 0.0, "momentum": 0.95}
    mine = Muon([group], torch.bfloat16)
    reference = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.0, momentum=0.95)
    for turn in range(5):
        for n, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            a.grad = torch.randn(shape, generator=torch.Generator().manual_seed(100 * turn + n))
            b.grad = a.grad.clone()
        mine.step()
        reference.step()
    moved = torch.stack([a.detach() - b for a, b in zip(ours, start, strict=True)])
    wanted = torch.stack([a.detach() - b for a, b in zip(theirs, start, strict=True)])
    assert moved.norm() == pytest.approx(float(wanted.norm()), rel=0.03)
    assert nn.functional.cosine_similarity(moved.flatten(), wanted.flatten(), dim=0) > 0.999


def test_weight_decay_never_opposes_the_update() -> None:
    weights = nn.Parameter(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))
    before, gradient = weights.detach().clone(), torch.randn(8, 8, generator=torch.Generator().manual_seed(2))
    changes = []
    for decay in (0.0, 0.5):
        with torch.no_grad():
            weights.copy_(before)
        weights.grad = gradient.clone()
        Muon([{"params": [weights], "lr": 0.1, "weight_decay": decay, "momentum": 0.9}], torch.float32).step()
        changes.append(weights.detach() - before)
    plain, pulled = changes
    extra = pulled - plain
    against = plain * before > 0  # the update itself makes these larger
    assert not extra[against].any()
    torch.testing.assert_close(extra[~against], -0.05 * before[~against])


def test_batched_weight_decay_equals_one_by_one() -> None:
    generator = torch.Generator().manual_seed(3)
    weights = [nn.Parameter(torch.randn(6, 9, generator=generator)) for _ in range(3)]
    gradients = [torch.randn(6, 9, generator=generator) for _ in weights]
    expected = []
    for p, gradient in zip(weights, gradients, strict=True):
        change = newton_schulz(1.9 * gradient[None], torch.float32)[0]
        decayed = p.detach() - 0.05 * p.detach() * (p.detach() * change > 0)
        expected.append(decayed - 0.1 * change)
        p.grad = gradient
    Muon([{"params": weights, "lr": 0.1, "weight_decay": 0.5, "momentum": 0.9}], torch.float32).step()
    for p, wanted in zip(weights, expected, strict=True):
        torch.testing.assert_close(p.detach(), wanted, rtol=1e-5, atol=1e-6)


def test_parameters_without_gradient_stay() -> None:
    still, moved, alone = (nn.Parameter(torch.ones(3, 4)) for _ in range(3))
    optimizer = Muon(
        [{"params": [still, moved], "momentum": 0.9}, {"params": [alone], "momentum": 0.9}], torch.float32, lr=0.1
    )
    moved.grad = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    assert (still == 1).all()
    assert (alone == 1).all()
    assert not (moved == 1).any()


def test_step_runs_the_closure_and_returns_its_loss() -> None:
    matrix, vector = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(4))
    optimizer = Muon([{"params": [matrix], "momentum": 0.9}, {"params": [vector]}], torch.float32, lr=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (matrix @ vector).square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 48
    assert not (matrix == 1).any()
    assert not (vector == 1).any()


def test_each_parameter_has_its_optimizer_and_learning_rate() -> None:
    model = build(MODEL, 0)
    optimizer = build_optimizer(model, MUON, CPU.torch_dtype)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}
    assert found.keys() == set(names.values())
    for name, group in found.items():
        matrix = name.startswith("blocks.") and "norm" not in name
        assert ("momentum" in group) == matrix, name
        peak = (
            0.05 if matrix else 0.2 if name in ("embed.weight", "bigram.weight") else 0.01 if "head" in name else 3e-3
        )
        assert (group["initial_lr"], group["weight_decay"]) == (peak, 0.3 if matrix else 0.0), name


def test_tied_head_shares_the_embedding() -> None:
    optimizer = build_optimizer(build(replace(MODEL, tied=True), 0), replace(MUON, embed_lr=None), CPU.torch_dtype)
    assert {group["initial_lr"] for group in optimizer.param_groups} == {0.05, 3e-3}


def test_state_dict_round_trip_continues_identically() -> None:
    def gradients(model: nn.Module, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)

    one, other = build(MODEL, 0), build(MODEL, 0)
    first, second = build_optimizer(one, MUON, CPU.torch_dtype), build_optimizer(other, MUON, CPU.torch_dtype)
    for turn in range(4):
        gradients(one, turn)
        first.step()
        if turn == 1:
            other.load_state_dict(one.state_dict())
            second.load_state_dict(deepcopy(first.state_dict()))
        if turn > 1:
            gradients(other, turn)
            second.step()
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
