"""config.json: the defaults of each class, what is refused, and reading what was written."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.config import read_overrides
from fledge.core.errors import UserError
from fledge.exchange import compatibility, gguf, hf_config
from fledge.exchange.hf_config import HF_ARCHITECTURES, QWEN2, HFArchitecture
from fledge.model.config import DROPOUT_ON, ModelConfig
from fledge.model.flops import parameter_count
from fledge.settings.layers import read_preset
from fledge.settings.pipeline import validated

from .conftest import SHAPES

PUBLISHED = {
    "SmolLM2-135M": (
        {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "bos_token_id": 0,
            "hidden_act": "silu",
            "hidden_size": 576,
            "intermediate_size": 1536,
            "is_llama_config": True,
            "max_position_embeddings": 8192,
            "model_type": "llama",
            "num_attention_heads": 9,
            "num_hidden_layers": 30,
            "num_key_value_heads": 3,
            "rms_norm_eps": 1e-05,
            "rope_interleaved": False,
            "rope_scaling": None,
            "rope_theta": 100000,
            "tie_word_embeddings": True,
            "vocab_size": 49152,
        },
        134_515_008,
    ),
    "TinyLlama-1.1B": (
        {
            "hidden_act": "silu",
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "max_position_embeddings": 2048,
            "model_type": "llama",
            "num_attention_heads": 32,
            "num_hidden_layers": 22,
            "num_key_value_heads": 4,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_scaling": None,
            "tie_word_embeddings": False,
            "vocab_size": 32000,
        },
        1_100_048_384,
    ),
    "Qwen3-0.6B": (
        {
            "attention_bias": False,
            "head_dim": 128,
            "hidden_act": "silu",
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "max_position_embeddings": 40960,
            "max_window_layers": 28,
            "model_type": "qwen3",
            "num_attention_heads": 16,
            "num_hidden_layers": 28,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 1000000,
            "sliding_window": None,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "vocab_size": 151936,
        },
        596_049_920,
    ),
    "gpt2": (
        {
            "activation_function": "gelu_new",
            "architectures": ["GPT2LMHeadModel"],
            "attn_pdrop": 0.1,
            "embd_pdrop": 0.1,
            "layer_norm_epsilon": 1e-05,
            "model_type": "gpt2",
            "n_ctx": 1024,
            "n_embd": 768,
            "n_head": 12,
            "n_layer": 12,
            "n_positions": 1024,
            "resid_pdrop": 0.1,
            "vocab_size": 50257,
        },
        124_439_808,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_give_the_published_sizes(name: str) -> None:
    config, size = PUBLISHED[name]
    _, model = hf_config.model_from_config(config, name)
    assert parameter_count(model) == size


@pytest.mark.parametrize("name", SHAPES)
def test_reading_inverts_writing(name: str) -> None:
    kind, model = hf_config.model_from_config(hf_config.config_from_model(SHAPES[name], HF_ARCHITECTURES[name]), "x")
    assert kind.name == name
    assert compatibility.resolved_settings(model) == compatibility.resolved_settings(SHAPES[name])


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("LlamaForCausalLM", {"model_type": "mamba"}, "unsupported architecture: mamba"),
    ("LlamaForCausalLM", {"model_type": None}, "unsupported architecture: None"),
    ("LlamaForCausalLM", {"quantization_config": {"bits": 4}}, "quantized"),
    ("LlamaForCausalLM", {"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
    ("LlamaForCausalLM", {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rotary"),
    ("LlamaForCausalLM", {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "rotary"),
    ("LlamaForCausalLM", {"rope_parameters": "yarn"}, "rotary"),
    ("LlamaForCausalLM", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "rotary"),
    ("LlamaForCausalLM", {"rope_parameters": None, "partial_rotary_factor": 0.5}, "rotary"),
    ("LlamaForCausalLM", {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "rotary"),
    ("LlamaForCausalLM", {"rope_parameters": {"rope_theta": None}}, "model.rotary_base cannot be None"),
    ("LlamaForCausalLM", {"tie_word_embeddings": None}, "model.tied cannot be None"),
    ("LlamaForCausalLM", {"hidden_size": "gone"}, "lacks hidden_size"),
    ("LlamaForCausalLM", {"hidden_size": "wide"}, "model.n_embd cannot be 'wide'"),
    ("LlamaForCausalLM", {"hidden_size": None}, "lacks hidden_size"),
    ("LlamaForCausalLM", {"num_hidden_layers": 1.5}, "model.n_layer"),
    ("LlamaForCausalLM", {"num_key_value_heads": 3}, "model.n_kv_head = 3"),
    ("LlamaForCausalLM", {"rms_norm_eps": -1.0}, "model.norm_eps"),
    ("GPT2LMHeadModel", {"activation_function": "silu"}, "activation_function = 'silu'"),
    ("GPT2LMHeadModel", {"activation_function": ["gelu"]}, "activation_function"),
    ("GPT2LMHeadModel", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ("GPT2LMHeadModel", {"add_cross_attention": True}, "add_cross_attention"),
    ("GPT2LMHeadModel", {"attn_pdrop": "0.1"}, "attn_pdrop = '0.1'"),
    ("GPT2LMHeadModel", {"resid_pdrop": 1.5}, "model.dropout cannot be 1.5"),
    ("GPT2LMHeadModel", {"embd_pdrop": None}, "embd_pdrop = None"),
    ("MistralForCausalLM", {"sliding_window": "wide"}, "model.window cannot be 'wide'"),
    ("MistralForCausalLM", {"sliding_window": 64, "max_position_embeddings": "long"}, "model.context cannot be 'long'"),
    ("Qwen3ForCausalLM", {"use_sliding_window": True}, "use_sliding_window"),
]


@pytest.mark.parametrize(("name", "changed", "words"), WRONG, ids=lambda value: str(value)[:60])
def test_unsupported_value_is_refused_by_name(name: str, changed: dict[str, Any], words: str) -> None:
    config = {**hf_config.config_from_model(SHAPES[name], HF_ARCHITECTURES[name]), **changed}
    config = {key: value for key, value in config.items() if value != "gone"}
    with pytest.raises(UserError) as caught:
        hf_config.model_from_config(config, "their-model")
    assert words in caught.value.message
    assert "their-model" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("rates", "dropout", "places"),
    [
        ({}, 0.1, DROPOUT_ON),
        ({"embd_pdrop": 0.0, "attn_pdrop": 0.2, "resid_pdrop": 0.3}, 0.3, ("attention", "residual")),
        (dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0), 0.0, DROPOUT_ON),
    ],
)
def test_dropout_of_gpt2_is_read_and_written_by_place(
    rates: dict[str, float], dropout: float, places: tuple[str, ...]
) -> None:
    config = hf_config.config_from_model(SHAPES["GPT2LMHeadModel"], HF_ARCHITECTURES["GPT2LMHeadModel"])
    stated = {key: value for key, value in config.items() if not key.endswith("_pdrop")} | rates
    kind, model = hf_config.model_from_config(stated, "x")
    assert (model.dropout, model.dropout_on) == (dropout, places)
    written = hf_config.config_from_model(model, kind)
    expected = [dropout if place in places else 0.0 for place in ("embedding", "attention", "residual")]
    assert [written[key] for key in ("embd_pdrop", "attn_pdrop", "resid_pdrop")] == expected


def test_unknown_architecture_lists_the_supported_ones() -> None:
    with pytest.raises(UserError) as caught:
        hf_config.model_from_config({"model_type": "bert"}, "x")
    for each in HF_ARCHITECTURES.values():
        assert f"{each.model_type} ({each.name})" in caught.value.hint


EXPORTED_AS = {
    "gpt2": ("GPT2LMHeadModel", "gpt2"),
    "gpt2-xl": ("GPT2LMHeadModel", "gpt2"),
    "modern-5m": ("Qwen3ForCausalLM", "qwen3"),
    "modern-30m": ("Qwen3ForCausalLM", "qwen3"),
    "modern-125m": ("Qwen3ForCausalLM", "qwen3"),
    "modern-350m": ("Qwen3ForCausalLM", "qwen3"),
    "demo": ("Qwen3ForCausalLM", "qwen3"),
    "nanogpt-shakespeare-char": ("GPT2LMHeadModel", "gelu"),
    "smol-gpt-22m": ("GPT2LMHeadModel", "relu"),
    "toygpt-small": ("head_bias", "head_bias"),
}


@pytest.mark.parametrize("preset", EXPORTED_AS)
def test_export_targets_of_presets(preset: str) -> None:
    model = replace(validated(read_preset(preset)[0]).model, vocab_size=300)
    kinds = {name: kind.constraints_of for name, kind in gguf.GGUF_ARCHITECTURES.items()}
    for expected, choose in zip(
        EXPORTED_AS[preset],
        (
            lambda: hf_config.choose_hf_architecture(model).name,
            lambda: compatibility.choose_architecture(model, kinds, "x"),
        ),
        strict=True,
    ):
        assert expected in name_or_error(choose)


def name_or_error(choose: Callable[[], str]) -> str:
    try:
        return choose()
    except UserError as error:
        return error.message


MODELS = st.builds(
    ModelConfig,
    n_layer=st.just(1),
    n_head=st.just(4),
    n_embd=st.just(32),
    n_kv_head=st.sampled_from([None, 2]),
    head_dim=st.sampled_from([None, 4]),
    context=st.just(16),
    vocab_size=st.just(11),
    positions=st.sampled_from(["learned", "sinusoidal", "rotary"]),
    norm=st.just("layernorm"),
    mlp=st.sampled_from(["gelu", "gelu_tanh", "relu", "relu2", "swiglu"]),
    qkv_bias=st.booleans(),
    output_bias=st.booleans(),
    mlp_bias=st.booleans(),
    norm_bias=st.booleans(),
    head_bias=st.booleans(),
    qk_norm=st.booleans(),
    window=st.sampled_from([None, 8]),
    softcap=st.sampled_from([None, 15.0]),
    tied=st.booleans(),
    block=st.sampled_from(["pre_norm", "pre_norm", "post_norm", "norm_in_out"]),
    final_norm=st.sampled_from([True, True, False]),
).flatmap(lambda model: st.sampled_from([model, replace(model, norm="rmsnorm", norm_bias=False)]))


@given(MODELS)
def test_model_is_written_exactly_or_hint_names_settings(model: ModelConfig) -> None:
    kind = architecture_or_hint(model)
    if isinstance(kind, str):
        assert hf_config.choose_hf_architecture(with_hint(model, kind)) is not QWEN2
        return
    assert kind is not QWEN2
    _, back = hf_config.model_from_config(
        hf_config.config_from_model(compatibility.with_biases(model, kind.constraints_of(model)), kind), "x"
    )
    changed = {
        key
        for key, value in compatibility.resolved_settings(back).items()
        if value != compatibility.resolved_settings(model)[key]
    }
    added = compatibility.added_biases(model, kind.constraints_of(model))
    unused = {"rotary_base"} if model.positions != "rotary" else set()
    assert changed - {"dropout"} <= added.keys() | unused


def architecture_or_hint(model: ModelConfig) -> HFArchitecture | str:
    try:
        return hf_config.choose_hf_architecture(model)
    except UserError as error:
        return error.hint


def with_hint(model: ModelConfig, hint: str) -> ModelConfig:
    """The model with the settings that a hint names."""
    settings = hint.removeprefix("a model trained with ").partition(" can be exported")[0]
    wanted = read_overrides(settings.split())["model"]
    changed = hf_config.build_model_config({**vars(model), **wanted}, "x")
    assert changed != model
    return changed
