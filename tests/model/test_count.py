"""Formulas against the real thing: tensors that exist, operations that torch counts."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from fledge.model import count
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    n_head = draw(st.sampled_from([1, 2, 4, 6]))
    norm = draw(st.sampled_from(["layernorm", "rmsnorm"]))
    return ModelConfig(
        n_layer=draw(st.integers(1, 3)),
        n_head=n_head,
        n_kv_head=draw(st.sampled_from([None, *(n for n in range(1, n_head + 1) if n_head % n == 0)])),
        n_embd=n_head * 2 * draw(st.integers(1, 4)),
        head_dim=draw(st.sampled_from([None, 4, 6])),
        context=draw(st.integers(1, 16)),
        vocab_size=draw(st.integers(1, 50)),
        positions=draw(st.sampled_from(["learned", "sinusoidal", "rotary"])),
        norm=norm,
        norm_bias=norm == "layernorm" and draw(st.booleans()),
        mlp=draw(st.sampled_from(["gelu", "gelu_tanh", "relu", "relu2", "swiglu"])),
        mlp_width=draw(st.sampled_from([None, 7, 32])),
        qkv_bias=draw(st.booleans()),
        output_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        head_bias=draw(st.booleans()),
        qk_norm=draw(st.booleans()),
        tied=draw(st.booleans()),
        attention="readable",
    )


@given(configs())
def test_the_formula_counts_every_parameter(config: ModelConfig) -> None:
    assert count.parameters(config) == sum(p.numel() for p in GPT(config).parameters())


@given(configs())
@settings(max_examples=30)
def test_the_formula_counts_the_operations_that_torch_counts(config: ModelConfig) -> None:
    model = GPT(config).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, config.context, dtype=torch.long))
    assert count.forward_flops(config) == counter.get_total_flops()
    assert count.training_flops_per_token(config) * config.context == 3 * count.forward_flops(config)


def test_known_models_have_their_known_sizes() -> None:
    gpt2 = ModelConfig(
        n_layer=12,
        n_head=12,
        n_embd=768,
        context=1024,
        vocab_size=50257,
        positions="learned",
        norm="layernorm",
        norm_bias=True,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        mlp="gelu",
        qk_norm=False,
        tied=True,
    )
    assert count.parameters(gpt2) == 124_439_808
    llama = ModelConfig(n_layer=32, n_head=32, n_embd=4096, context=4096, vocab_size=32000, mlp_width=11008)
    qk_norms = 32 * 2 * 128
    assert count.parameters(llama) - qk_norms == 6_738_415_616
