"""Statistics of each layer: against plain formulas, and without any influence on training."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fledge.core.device import Machine
from fledge.model.attention import attention_weights
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.model.lora import freeze_base
from fledge.model.packed import PackedCache
from fledge.tracking.sinks.csv import read_metrics
from fledge.training.statistics import LayerStatistics, attention_entropy, recorded, trained_layers
from fledge.training.step import TrainStep

CPU = Machine("cpu", "float32")
KINDS = ("grad_norm", "update_ratio", "activation_rms", "attention_entropy")


def measured(step: TrainStep, every: int = 2) -> LayerStatistics:
    statistics = LayerStatistics(step, CPU, every)
    step.around_update = statistics.around_update
    return statistics


@pytest.mark.parametrize("clip", [1e-3, 0.0])
def test_gradient_and_update_are_those_of_the_step(stepper: Callable[..., TrainStep], clip: float) -> None:
    step = stepper("float32")
    step.grad_clip = clip
    statistics = measured(step)
    before = {name: weight.detach().clone() for name, weight in step.model.named_parameters()}
    result = step(0)
    found = statistics.metrics()
    layers = list(trained_layers(step.model))
    assert layers == ["embed", "blocks.0", "blocks.1", "norm", "head"][: len(layers)]
    norm = math.hypot(*(found[f"stats/grad_norm/{layer}"] for layer in layers))
    assert norm == pytest.approx(result.grad_norm, rel=1e-4), "before clipping"
    for layer in layers:
        now = {name: each.detach() for name, each in step.model.named_parameters() if name.startswith(f"{layer}.")}
        change = math.sqrt(sum(float((now[name] - before[name]).square().sum()) for name in now))
        size = math.sqrt(sum(float(each.square().sum()) for each in now.values()))
        assert found[f"stats/update_ratio/{layer}"] == pytest.approx(change / size, rel=1e-4)
    assert {f"stats/{kind}/blocks.{n}" for kind in KINDS for n in range(2)} <= found.keys()
    assert statistics.metrics() == {}, "told once"


def test_too_little_memory_leaves_the_statistics_out(
    stepper: Callable[..., TrainStep], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = stepper("float32")
    statistics = measured(step)

    def full(*_: Any) -> Tensor:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("fledge.training.statistics.attention_entropy", full)
    before = [weight.detach().clone() for weight in step.model.parameters()]
    step(0)
    assert statistics.metrics() == {}
    assert "not enough memory for the statistics of step 1" in capsys.readouterr().err
    assert step.model.training
    assert any(not torch.equal(a, b) for a, b in zip(before, step.model.parameters(), strict=True)), "it was updated"


def test_activations_and_entropy_equal_plain_formulas(stepper: Callable[..., TrainStep]) -> None:
    step = stepper("float32")
    ids = step.micro_batches(0)[0].inputs[:1]
    outputs: list[Tensor] = []
    weights: list[Tensor] = []
    model = step.model.eval()
    for block in model.blocks:
        block.register_forward_hook(lambda _, __, x: outputs.append(x))
        attend = block.attention.attend
        block.attention.attend = lambda q, k, v, mask, window, dropout, attend=attend: (
            weights.append(attention_weights(q, k, mask, window)) or attend(q, k, v, mask, window, dropout)
        )
    with torch.no_grad():
        model(ids)
    expected = [(float(x.square().mean().sqrt()), entropy(w)) for x, w in zip(outputs[:2], weights[:2], strict=True)]
    statistics = measured(step)
    step(0)
    found = statistics.metrics()
    for number, (rms, nats) in enumerate(expected):
        assert found[f"stats/activation_rms/blocks.{number}"] == pytest.approx(rms, rel=1e-5)
        assert found[f"stats/attention_entropy/blocks.{number}"] == pytest.approx(nats, rel=1e-4)


def entropy(weights: Tensor) -> float:
    """Row by row, without the zeros."""
    rows = weights.flatten(0, -2)
    return float(torch.stack([-(row[row > 0] * row[row > 0].log()).sum() for row in rows]).mean())


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("T", [7, 200])
def test_entropy_of_blocks_equals_that_of_all_weights(window: int | None, packed: bool, T: int) -> None:
    q, k = torch.randn(2, 4, T, 8), torch.randn(2, 2, T, 8)
    positions = torch.cat([torch.arange(5), torch.arange(T - 5)]).expand(2, T)
    config = ModelConfig(n_layer=1, n_head=4, n_kv_head=2, n_embd=32, context=T, vocab_size=9, window=window)
    mask = PackedCache(config, positions).layers[0].mask if packed else None
    found = float(attention_entropy(q, k, mask, window))
    assert found == pytest.approx(entropy(attention_weights(q, k, mask, window)), rel=1e-4)


def test_attention_to_one_token_has_no_entropy() -> None:
    x = torch.randn(1, 1, 4, 8)
    assert float(attention_entropy(x, x, None, 1)) == 0.0


def test_steps_are_the_first_and_every_nth(stepper: Callable[..., TrainStep]) -> None:
    step = stepper("float32")
    statistics = measured(step, 3)
    assert [n + 1 for n in range(7) if step(n) and statistics.metrics()] == [1, 3, 6]
    never = measured(stepper("float32"), 0)
    assert not any(never.is_due(n) for n in range(10))


def test_skipped_update_has_no_statistics(stepper: Callable[..., TrainStep]) -> None:
    step = stepper("float32")
    statistics = measured(step, 1)
    with torch.no_grad():
        step.model.embed.weight.fill_(float("nan"))
    assert not step(0).is_finite
    assert statistics.metrics() == {}


def test_step_that_was_undone_before_it_was_logged_is_forgotten(stepper: Callable[..., TrainStep]) -> None:
    step = stepper("float32")
    statistics = measured(step, 4)
    step(3)  # a spike: it is rolled back, and not logged
    step(1)
    assert statistics.metrics() == {}


def test_model_is_left_as_it_was(stepper: Callable[..., TrainStep]) -> None:
    step = stepper("float32")
    attends = [block.attention.attend for block in step.model.blocks]
    with pytest.raises(ZeroDivisionError), recorded(step.model):
        _ = 1 / 0
    assert [block.attention.attend for block in step.model.blocks] == attends
    assert not any(block._forward_hooks for block in step.model.blocks)


def test_lora_has_statistics_of_its_adapters() -> None:
    config = ModelConfig(n_layer=2, n_head=2, n_embd=16, context=8, vocab_size=13, lora=2)
    layers = trained_layers(freeze_base(build(config, 0)))
    assert list(layers) == ["blocks.0", "blocks.1"]
    assert sum(len(layer) for layer in layers.values()) == 2 * 2 * len(adapted(build(config, 0)))


def adapted(model: GPT) -> list[str]:
    return [name for name, _ in model.blocks[0].named_parameters() if name.endswith("lora_a")]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_weights_are_bit_identical_with_and_without(make_trainer: Callable[..., Any], dropout: float) -> None:
    plain, watched = (make_trainer({"track": {"statistics": n}, "model": {"dropout": dropout}}) for n in (0, 2))
    for trainer in (plain, watched):
        trainer.fit()
    for one, other in zip(plain.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(one, other)
    table = read_metrics(watched.run.folder)
    assert len(table.measured("stats/attention_entropy/blocks.0")) == 4, "steps 1, 2, 4, 6"
    assert not [name for name in read_metrics(plain.run.folder) if name.startswith("stats/")]
