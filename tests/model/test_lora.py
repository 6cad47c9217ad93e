"""LoRA adapters: new ones change nothing, merged ones compute the same, only they are trained."""

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch

from fledge.checkpoint.state import blank_weights, capture, load_weights, restore, snapshot, weights_of
from fledge.core.errors import UserError
from fledge.losses.cross_entropy import full_logits_loss
from fledge.losses.logprobs import token_logprobs
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build, merged_copy
from fledge.model.lora import LoRALinear, freeze_base, merge, plain_config
from fledge.optim.config import OptimConfig
from fledge.optim.groups import build_optimizer
from tiny import GPT2_PARTS

PLAIN = ModelConfig(n_layer=2, n_head=4, n_kv_head=2, n_embd=32, context=16, vocab_size=23)
KINDS = {
    "modern": PLAIN,
    "gpt2": replace(PLAIN, n_kv_head=None, qk_norm=False, mlp="gelu", tied=True, **GPT2_PARTS),
    "post-norm": replace(PLAIN, block="post_norm", init="torch", mlp_bias=True, final_norm=False),
}
IDS = torch.randint(23, (3, 16), generator=torch.Generator().manual_seed(1))


def trained_adapters(config: ModelConfig, **changes: Any) -> GPT:
    """A model whose adapters are not zero."""
    model = build(replace(config, lora=4, **changes), 0)
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, LoRALinear):
            torch.nn.init.normal_(module.lora_b, std=0.1, generator=generator)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_new_adapters_change_nothing(kind: str) -> None:
    plain, with_lora = build(KINDS[kind], 3), build(replace(KINDS[kind], lora=4), 3)
    assert torch.equal(plain(IDS), with_lora(IDS))
    old, new = weights_of(plain), weights_of(with_lora)
    assert all(torch.equal(new[name], old[name]) for name in old)
    layers = 4 + (3 if KINDS[kind].mlp == "swiglu" else 2)
    assert len(new) - len(old) == 2 * layers * KINDS[kind].n_layer
    assert new["blocks.0.attention.query.lora_a"].shape == (4, 32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alpha", [None, 3.0])
def test_merged_computes_the_same(kind: str, alpha: float | None) -> None:
    model = trained_adapters(KINDS[kind], lora_alpha=alpha, value_head=True).eval()
    plain = merged_copy(model)
    assert plain.config == KINDS[kind]
    assert not plain.training
    expected, base = model(IDS), build(KINDS[kind], 0)(IDS)
    assert (expected - base).abs().max() > 0.01  # the adapters count
    torch.testing.assert_close(plain(IDS), expected, rtol=1e-5, atol=1e-5)
    assert merge(weights_of(model), model.config).keys() == blank_weights(plain_config(model.config)).keys()


def test_merged_copy_shares_nothing_with_the_model() -> None:
    model = build(PLAIN, 0)
    before = merged_copy(model)(IDS)
    copy = merged_copy(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1.0)
    assert torch.equal(copy(IDS), before)


def test_value_head_survives_a_merge_on_request() -> None:
    model = trained_adapters(PLAIN, value_head=True)
    assert model.value_head is not None
    torch.nn.init.normal_(model.value_head.weight)
    config = plain_config(model.config, value_head=True)
    plain = build(config, 1)
    load_weights(plain, merge(weights_of(model), model.config, value_head=True))
    torch.testing.assert_close(plain.values(IDS), model.values(IDS), rtol=1e-5, atol=1e-5)


def test_only_adapters_and_value_head_are_trained() -> None:
    model = freeze_base(trained_adapters(PLAIN, value_head=True))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name in weights_of(model) if "lora" in name or "value_head" in name}
    (model(IDS).square().mean() + model.values(IDS).mean()).backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == trained
    grown = freeze_base(trained_adapters(PLAIN, lora_embeddings=True))
    assert {"embed.weight", "head.weight"} <= {name for name, p in grown.named_parameters() if p.requires_grad}


def test_without_adapters_nothing_is_frozen() -> None:
    assert all(p.requires_grad for p in freeze_base(build(replace(PLAIN, value_head=True), 0)).parameters())


def test_loss_and_values_in_one_pass_equal_two() -> None:
    model = build(replace(PLAIN, value_head=True), 0)
    assert model.value_head is not None
    assert torch.equal(model.values(IDS), torch.zeros(IDS.shape))  # a new head
    torch.nn.init.normal_(model.value_head.weight)
    logprobs, values = model.loss_and_values(IDS, IDS, token_logprobs)
    assert torch.equal(values, model.values(IDS))
    assert torch.equal(logprobs, model.forward_loss(IDS, IDS, token_logprobs))
    assert values.shape == IDS.shape


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lora": 0}, "model.lora cannot be 0"),
        ({"lora_alpha": 8.0}, "model.lora is unset"),
        ({"lora": 4, "lora_alpha": -1.0}, "model.lora_alpha = -1.0 cannot be used"),
        ({"lora": 4, "lora_alpha": float("nan")}, "model.lora_alpha = nan cannot be used"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(PLAIN, **changes)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_continues_with_the_same_bits(optimizer: Literal["adamw", "muon"]) -> None:
    """Adapters, value head and their optimizer state are in a checkpoint; frozen weights have no state there."""

    def start() -> tuple[GPT, torch.optim.Optimizer]:
        model = freeze_base(build(replace(PLAIN, lora=2, value_head=True), 0))
        return model, build_optimizer(model, OptimConfig(optimizer=optimizer, lr=0.01), torch.float32)

    def update(model: GPT, made: torch.optim.Optimizer, steps: int) -> None:
        for _ in range(steps):
            loss, values = model.loss_and_values(IDS, IDS, full_logits_loss)
            (loss + (values - 1).square().sum()).backward()
            made.step()
            made.zero_grad()

    whole, stopped, resumed = start(), start(), start()
    update(*whole, 5)
    update(*stopped, 2)
    state = snapshot(capture(*stopped, 2))
    assert {name.partition("/")[2] for name in state.optimizer} == {
        name for name, p in stopped[0].named_parameters() if p.requires_grad
    }
    restore(state, *resumed)
    update(*resumed, 3)
    expected, found = weights_of(whole[0]), weights_of(resumed[0])
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    base = weights_of(start()[0])
    changed = {name for name in base if not torch.equal(base[name], found[name])}
    assert changed == {name for name in base if "lora" in name or "value_head" in name}
