"""What is captured comes back bit for bit, and what does not fit is refused by name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fledge.checkpoint import store
from fledge.checkpoint.state import capture, load_weights, restore, weights_of
from fledge.core.errors import UserError
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build

Trainer = Callable[[int], tuple[GPT, torch.optim.Optimizer]]
Update = Callable[[GPT, torch.optim.Optimizer], float]


def copied(state):  # type: ignore[no-untyped-def]
    return replace(
        state,
        weights={k: v.clone() for k, v in state.weights.items()},
        optimizer={k: v.clone() for k, v in state.optimizer.items()},
    )


def test_restored_training_continues_bit_identically(trainer: Trainer, update: Update) -> None:
    model, optimizer = trainer(0)
    for _ in range(3):
        update(model, optimizer)
    state = copied(capture(model, optimizer, 3, val_loss=1.5))
    went_on = [update(model, optimizer) for _ in range(3)]

    other_model, other_optimizer = trainer(99)
    torch.rand(1000)
    restore(state, other_model, other_optimizer)
    assert [update(other_model, other_optimizer) for _ in range(3)] == went_on
    for (name, a), b in zip(model.named_parameters(), other_model.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_restored_model_does_not_share_memory_with_the_state(trainer: Trainer, update: Update) -> None:
    model, optimizer = trainer(0)
    update(model, optimizer)
    state = copied(capture(model, optimizer, 1))
    before = copied(state)
    other = trainer(1)
    restore(state, *other)
    update(*other)
    assert all(torch.equal(state.weights[name], before.weights[name]) for name in before.weights)


def test_optimizer_tensors_are_named_after_weights(trainer: Trainer, update: Update) -> None:
    model, optimizer = trainer(0)
    update(model, optimizer)
    state = capture(model, optimizer, 1)
    expected = {f"{kind}/{name}" for name in state.weights for kind in ("exp_avg", "exp_avg_sq", "step")}
    assert set(state.optimizer) == expected
    for name, p in model.named_parameters():
        assert torch.equal(state.optimizer[f"exp_avg/{name}"], optimizer.state[p]["exp_avg"])


def test_tied_head_is_saved_once() -> None:
    tied = build(ModelConfig(n_layer=1, n_head=2, n_embd=16, context=8, vocab_size=11, tied=True), 0)
    weights = weights_of(tied)
    assert "embed.weight" in weights
    assert "head.weight" not in weights
    other = build(tied.config, 1)
    load_weights(other, weights)
    assert torch.equal(other.head.weight, tied.head.weight)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda w: w.pop("blocks.0.mlp.up.weight"), "missing: blocks.0.mlp.up.weight"),
        (lambda w: w.update({"blocks.9.extra": torch.zeros(1)}), "unexpected: blocks.9.extra"),
        (lambda w: w.update({"_orig_mod.norm.weight": w.pop("norm.weight")}), "norm.weight"),
        (lambda w: w.update({"norm.weight": torch.zeros(17)}), r"'norm.weight' has shape \[17\].*\[16\]"),
        (lambda w: w.update({"norm.weight": torch.zeros(1)}), "'norm.weight'"),
    ],
)
def test_misfit_weights_are_refused_and_nothing_is_loaded(
    trainer: Trainer, change: Callable[[dict[str, torch.Tensor]], object], named: str
) -> None:
    source, (target, _) = trainer(1)[0], trainer(2)
    weights = {name: p.clone() for name, p in weights_of(source).items()}
    before = {name: p.clone() for name, p in weights_of(target).items()}
    change(weights)
    with pytest.raises(UserError, match=named):
        load_weights(target, weights)
    assert all(torch.equal(p, before[name]) for name, p in weights_of(target).items())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda o: o.pop("exp_avg/norm.weight"), "norm.weight"),
        (lambda o: [o.pop(f"{kind}/norm.weight") for kind in ("exp_avg", "exp_avg_sq", "step")], "norm.weight"),
        (lambda o: o.update({"exp_avg/other.weight": torch.zeros(1)}), "other.weight"),
        (lambda o: o.update({"exp_avg/norm.weight": torch.zeros(17)}), "norm.weight"),
    ],
)
def test_misfit_optimizer_state_is_refused_by_name(
    trainer: Trainer, update: Update, change: Callable[[dict[str, torch.Tensor]], object], named: str
) -> None:
    model, optimizer = trainer(0)
    update(model, optimizer)
    state = copied(capture(model, optimizer, 1))
    change(state.optimizer)
    with pytest.raises(UserError, match=named):
        restore(state, *trainer(1))


class Average:
    """A component with tensors, as EMA weights would be."""

    def __init__(self, value: float) -> None:
        self.tensors = {"blocks.0.mlp.up.weight": torch.full((3, 2), value)}
        self.updates = int(value)

    def state_dict(self) -> dict[str, Any]:
        return {**self.tensors, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state.pop("updates", 0)
        self.tensors = state


def test_component_with_tensors_is_saved_and_restored(trainer: Trainer, tmp_path: Path) -> None:
    model, optimizer = trainer(0)
    store.save(tmp_path, capture(model, optimizer, 3, components={"ema": Average(7.0)}))
    assert (tmp_path / "step-00000003" / "ema.safetensors").exists()
    loaded, restored = store.load(store.find_checkpoint(tmp_path)[0]), Average(0.0)
    assert loaded.components == {"ema": {"updates": 7}}
    restore(loaded, model, optimizer, components={"ema": restored})
    assert restored.updates == 7
    assert torch.equal(restored.tensors["blocks.0.mlp.up.weight"], torch.full((3, 2), 7.0))


def test_component_that_was_not_saved_gets_an_empty_dict(trainer: Trainer) -> None:
    model, optimizer = trainer(0)
    component = Average(7.0)
    restore(capture(model, optimizer, 3), model, optimizer, components={"ema": component})
    assert (component.updates, component.tensors) == (0, {})
