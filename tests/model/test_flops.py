"""Formulas against real tensors, torch's FLOP counter, and what autograd keeps."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from fledge.batches.loader import Batch
from fledge.core.device import DTYPES, Machine
from fledge.model import flops
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.model.kv_cache import KVCache
from fledge.model.lora import freeze_base
from fledge.training.objective import next_token_objective
from fledge.training.parallel import wrap

NAMES: dict[torch.dtype, Any] = {dtype: name for name, dtype in DTYPES.items()}


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    n_head = draw(st.sampled_from([1, 2, 4, 6]))
    norm = draw(st.sampled_from(["layernorm", "rmsnorm"]))
    context = draw(st.integers(1, 16))
    return ModelConfig(
        n_layer=draw(st.integers(1, 3)),
        n_head=n_head,
        n_kv_head=draw(st.sampled_from([None, *(n for n in range(1, n_head + 1) if n_head % n == 0)])),
        n_embd=n_head * 2 * draw(st.integers(1, 4)),
        head_dim=draw(st.sampled_from([None, 4, 6])),
        context=context,
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
        window=draw(st.none() | st.integers(1, context)),
        softcap=draw(st.sampled_from([None, 15.0])),
        bigram_rows=draw(st.none() | st.integers(1, 400)),
        tied=draw(st.booleans()),
        block=draw(st.sampled_from(["pre_norm", "post_norm", "norm_in_out"])),
        final_norm=draw(st.booleans()),
        attention=draw(st.sampled_from(["sdpa", "blocked", "readable"])),
        lora=draw(st.sampled_from([None, 1, 3])),
        lora_embeddings=draw(st.booleans()),
        value_head=draw(st.booleans()),
    )


@given(configs())
def test_parameters_equal_the_real_tensors(config: ModelConfig) -> None:
    real = {name: p.numel() for name, p in GPT(config).named_parameters()}
    assert flops.parameter_count(config) == sum(real.values())
    body = [n for name, n in real.items() if name.startswith(("blocks.", "norm."))]
    assert flops.non_embedding_parameters(config) == sum(body)
    trained = [p.numel() for p in freeze_base(GPT(config)).parameters() if p.requires_grad]
    assert flops.trained_parameters(config) == sum(trained)


@given(configs())
@settings(max_examples=30)
def test_flops_equal_torchs_counter(config: ModelConfig) -> None:
    """On the meta device: nothing is computed, and the counter sees the products of every implementation."""
    whole = replace(config, window=None)
    with torch.device("meta"):
        model = freeze_base(GPT(whole))
        ids = torch.zeros(2, whole.context, dtype=torch.long)
    tokens = ids.numel()
    with FlopCounterMode(display=False) as forward:
        logits = model(ids)
    assert flops.forward_flops(whole) * tokens == forward.get_total_flops()
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    both = forward.get_total_flops() + backward.get_total_flops()
    # With frozen embeddings, the first block's queries, keys and values need no gradient of their input.
    width, frozen = (whole.n_head + 2 * whole.kv_heads) * whole.head_width, whole.lora and not whole.lora_embeddings
    first = 2 * whole.n_embd * (width + 3 * (whole.lora or 0)) if frozen else 0
    assert (flops.training_flops(whole) - first) * tokens == both


@pytest.mark.parametrize("window", [None, 1, 5, 12])
def test_decoding_flops_equal_torchs_counter(window: int | None) -> None:
    """The formula counts a token that attends to a full context, or to a full window."""
    config = ModelConfig(
        n_layer=2, n_head=4, n_kv_head=2, n_embd=32, context=12, vocab_size=40, window=window, attention="readable"
    )
    model, cache = build(config, 0).eval(), KVCache.allocate(config, 1, torch.float32, "cpu")
    with torch.no_grad():
        for _ in range(11):
            model(torch.zeros(1, 1, dtype=torch.long), cache)
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 1, dtype=torch.long), cache)
    assert counter.get_total_flops() == flops.forward_flops(config)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 5])
def test_cache_bytes_equal_the_real_cache(dtype: torch.dtype, window: int | None) -> None:
    config = ModelConfig(n_layer=3, n_head=4, n_kv_head=2, n_embd=32, context=12, vocab_size=40, window=window)
    model, cache = build(config, 0).eval().to(dtype), KVCache.allocate(config, 1, dtype, "cpu")
    with torch.no_grad():
        for _ in range(12):
            model(torch.zeros(1, 1, dtype=torch.long), cache)
    kept = cache.store.untyped_storage().nbytes()
    assert kept == flops.cache_bytes(config, dtype.itemsize)
    assert kept == 12 * flops.cache_bytes_per_token(config, dtype.itemsize)


def kept_bytes(config: ModelConfig, batch: int, dtype: torch.dtype, *, chunked: bool = False, **options: bool) -> int:
    """Bytes that autograd keeps from a forward pass: each storage once, without parameters and buffers."""
    model = freeze_base(build(config, 0))
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    ids, machine = torch.zeros(batch, config.context, dtype=torch.long), Machine("cpu", NAMES[dtype])
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = wrap(model, machine, next_token_objective(machine, chunked=chunked), **options)(Batch(ids, ids)).total
    assert loss.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


MODERN = ModelConfig(n_layer=2, n_head=4, n_kv_head=2, n_embd=64, context=64, vocab_size=100)
OLD = replace(
    MODERN, n_kv_head=None, qk_norm=False, positions="learned", norm="layernorm", norm_bias=True, qkv_bias=True
)
KINDS = {
    "modern": MODERN,
    "no groups": replace(MODERN, n_kv_head=None),
    "window": replace(MODERN, window=16),
    "capped": replace(MODERN, softcap=15.0, qk_norm=False),
    "large vocabulary": replace(MODERN, vocab_size=flops.LARGE_VOCABULARY, context=16, tied=True),
    "wide heads": replace(MODERN, head_dim=32),
    **{mlp: replace(OLD, mlp=mlp, mlp_bias=True) for mlp in ("gelu", "gelu_tanh", "relu", "relu2")},
    "sinusoidal": replace(OLD, positions="sinusoidal", tied=True, head_bias=True),
    "post-norm": replace(OLD, block="post_norm", mlp="relu"),
    "norm in and out": replace(OLD, block="norm_in_out", mlp="gelu", final_norm=False),
    "post-norm, modern": replace(MODERN, block="post_norm"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "blocked", "readable"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activation_bytes_within_two_percent_of_autograd(kind: str, attention: str, dtype: torch.dtype) -> None:
    """The difference of two batches, without what they share (weights in low precision, masks)."""
    config, chunked = replace(KINDS[kind], attention=attention), kind == "large vocabulary"
    real = kept_bytes(config, 4, dtype, chunked=chunked) - kept_bytes(config, 2, dtype, chunked=chunked)
    assert abs(flops.activation_bytes(config, 2, dtype.itemsize, chunked=chunked) / real - 1) < 0.02


@pytest.mark.parametrize("attention", ["sdpa", "readable"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activation_bytes_with_lora_are_a_close_upper_bound(attention: str, dtype: torch.dtype) -> None:
    """Layers with frozen weights keep less: they have no gradient that needs their input."""
    config = replace(MODERN, attention=attention, lora=8)
    real = kept_bytes(config, 4, dtype) - kept_bytes(config, 2, dtype)
    assert 1 <= flops.activation_bytes(config, 2, dtype.itemsize) / real < 1.4


def test_checkpointing_keeps_block_inputs_only() -> None:
    config = replace(MODERN, n_layer=6)
    seen = [kept_bytes(config, batch, torch.float32, activation_checkpointing=True) for batch in (2, 4)]
    one, two = (flops.activation_bytes(replace(config, n_layer=layers), 2) for layers in (1, 2))
    block = two - one
    predicted = flops.activation_bytes(config, 2, checkpointed=True) - block  # it is computed in the backward pass
    assert abs(predicted / (seen[1] - seen[0]) - 1) < 0.02
    assert predicted < flops.activation_bytes(config, 2) / 4


def test_llama_7b_has_its_published_size() -> None:
    llama = ModelConfig(n_layer=32, n_head=32, n_embd=4096, context=4096, vocab_size=32000, mlp_width=11008)
    qk_norms = 32 * 2 * 128
    assert flops.parameter_count(llama) - qk_norms == 6_738_415_616


def test_chunked_loss_memory_is_independent_of_the_batch() -> None:
    large = replace(MODERN, vocab_size=flops.LARGE_VOCABULARY)
    assert flops.activation_bytes(large, 100, chunked=True) < flops.activation_bytes(large, 100) / 2
    assert flops.chunk_bytes(large) < flops.logits_bytes(large, 100 * large.context)
