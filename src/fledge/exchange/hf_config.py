"""Hugging Face's `config.json` ↔ the [model] section.

One entry for each transformers class that fledge can build: the names of its keys, the defaults of absent keys, and
the keys that must have a certain value because fledge has no alternative. The names of the weights are in names.py.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fledge.core.config import build
from fledge.core.errors import UserError
from fledge.exchange import compatibility, names
from fledge.exchange.compatibility import ConstraintsOf, resolved_settings
from fledge.exchange.names import Names
from fledge.model.config import DROPOUT_ON, DropoutPlace, ModelConfig

Json = dict[str, Any]
REQUIRED = object()  # in place of a default: the key must be present
MLP_OF = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu", "relu2": "relu2"}
ACTIVATION_OF = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu", "relu2": "relu2"}


@dataclass(frozen=True)
class HFArchitecture:
    """How `config.json` describes a model of one transformers class."""

    name: str
    model_type: str
    names: Names
    constraints_of: ConstraintsOf
    keys: Mapping[str, tuple[str, Any]]  # their key → our setting, and its default
    fixed: Mapping[str, Any]  # their key → the only supported value
    dropouts: Mapping[str, DropoutPlace] = field(
        default_factory=dict
    )  # their key → where it drops; absent: GPT-2's 0.1


@dataclass(frozen=True)
class _ModelSection:
    model: ModelConfig


MODERN_KEYS = {
    "vocab_size": ("vocab_size", REQUIRED),
    "max_position_embeddings": ("context", REQUIRED),
    "hidden_size": ("n_embd", REQUIRED),
    "num_hidden_layers": ("n_layer", REQUIRED),
    "num_attention_heads": ("n_head", REQUIRED),
    "num_key_value_heads": ("n_kv_head", None),
    "head_dim": ("head_dim", None),
    "intermediate_size": ("mlp_width", REQUIRED),
    "rms_norm_eps": ("norm_eps", 1e-6),
    "tie_word_embeddings": ("tied", False),
}
ATTENTION_BIAS = {"attention_bias": ("output_bias", False)}
LLAMA = HFArchitecture(
    "LlamaForCausalLM",
    "llama",
    names.HF_LLAMA,
    compatibility.llama_constraints,
    keys={**MODERN_KEYS, **ATTENTION_BIAS, "mlp_bias": ("mlp_bias", False)},
    fixed={"hidden_act": "silu", "rope_interleaved": False},
)
MISTRAL = HFArchitecture(
    "MistralForCausalLM",
    "mistral",
    names.HF_LLAMA,
    compatibility.mistral_constraints,
    keys={**MODERN_KEYS, "num_key_value_heads": ("n_kv_head", 8), "sliding_window": ("window", 4096)},
    fixed={"hidden_act": "silu"},
)
QWEN2 = HFArchitecture(
    "Qwen2ForCausalLM",
    "qwen2",
    names.HF_LLAMA,
    compatibility.qwen2_constraints,
    keys={**MODERN_KEYS, "num_key_value_heads": ("n_kv_head", 32)},
    fixed={"hidden_act": "silu", "use_sliding_window": False},
)
QWEN3 = HFArchitecture(
    "Qwen3ForCausalLM",
    "qwen3",
    names.HF_LLAMA,
    compatibility.qwen3_constraints,
    keys={**MODERN_KEYS, **ATTENTION_BIAS, "num_key_value_heads": ("n_kv_head", 32), "head_dim": ("head_dim", 128)},
    fixed={"hidden_act": "silu", "use_sliding_window": False},
)
GPT2 = HFArchitecture(
    "GPT2LMHeadModel",
    "gpt2",
    names.HF_GPT2,
    compatibility.gpt2_constraints,
    keys={
        "vocab_size": ("vocab_size", REQUIRED),
        "n_positions": ("context", REQUIRED),
        "n_embd": ("n_embd", REQUIRED),
        "n_layer": ("n_layer", REQUIRED),
        "n_head": ("n_head", REQUIRED),
        "n_inner": ("mlp_width", None),
        "activation_function": ("mlp", "gelu_new"),
        "layer_norm_epsilon": ("norm_eps", 1e-5),
        "tie_word_embeddings": ("tied", True),
    },
    fixed={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
    dropouts={"embd_pdrop": "embedding", "attn_pdrop": "attention", "resid_pdrop": "residual"},
)
HF_ARCHITECTURES = {each.name: each for each in (LLAMA, MISTRAL, QWEN2, QWEN3, GPT2)}


def model_from_config(config: Json, source: str) -> tuple[HFArchitecture, ModelConfig]:
    """The model that `config.json` describes. A setting that fledge does not support is an error that names it."""
    architecture = find_hf_architecture(config, source)
    for key, value in architecture.fixed.items():
        if config.get(key, value) != value:
            raise UserError(
                f"'{source}' has {key} = {config[key]!r}, which fledge does not support",
                f"a {architecture.name} with {value!r} can be imported",
            )
    settings = {ours: _value(config, key, ours, default, source) for key, (ours, default) in architecture.keys.items()}
    window = settings.pop("window", None)
    settings |= _dropout(config, architecture, source)
    model = build_model_config({**settings, "positions": "learned"}, source)
    constraints = dict(architecture.constraints_of(model))
    if not (isinstance(window, int) and window >= model.context):  # a window as long as the context is none
        constraints["window"] = window
    if constraints["positions"] == "rotary":
        constraints["rotary_base"] = _rotary_base(config, source)
    return architecture, build_model_config({**asdict(model), **constraints}, source)


def build_model_config(settings: Mapping[str, Any], source: str) -> ModelConfig:
    """The [model] section from the settings of an external file; wrong types and impossible values are errors."""
    try:
        return build(_ModelSection, {"model": settings}).model
    except UserError as error:
        raise UserError(f"'{source}' does not describe a valid model: {error.message}", error.hint) from None


def find_hf_architecture(config: Json, source: str) -> HFArchitecture:
    if config.get("quantization_config"):
        raise UserError(f"the weights of '{source}' are quantized", "import the original model instead")
    model_type = config.get("model_type")
    for each in HF_ARCHITECTURES.values():
        if model_type == each.model_type:
            return each
    supported = ", ".join(f"{each.model_type} ({each.name})" for each in HF_ARCHITECTURES.values())
    raise UserError(f"'{source}' has an unsupported architecture: {model_type}", f"fledge supports {supported}")


def _value(config: Json, key: str, ours: str, default: Any, source: str) -> Any:
    if default is REQUIRED and config.get(key) is None:
        raise UserError(f"the config.json of '{source}' lacks {key}", "download or copy the file again")
    value = config.get(key, default)
    if ours != "mlp":
        return value
    if not isinstance(value, str) or value not in MLP_OF:
        raise UserError(
            f"'{source}' has {key} = {value!r}, which fledge does not support", f"it supports {', '.join(MLP_OF)}"
        )
    return MLP_OF[value]


def _dropout(config: Json, architecture: HFArchitecture, source: str) -> Json:
    """Our one rate and its places. Where theirs have several rates, the highest."""
    rates = {place: config.get(key, 0.1) for key, place in architecture.dropouts.items()}
    for key, rate in zip(architecture.dropouts, rates.values(), strict=True):
        if isinstance(rate, bool) or not isinstance(rate, int | float):
            raise UserError(f"'{source}' has {key} = {rate!r}, which is no number", "use a number from 0 to below 1")
    places = tuple(place for place, rate in rates.items() if rate)
    return {"dropout": max(rates.values(), default=0.0), "dropout_on": places or DROPOUT_ON}


def _rotary_base(config: Json, source: str) -> Any:
    """Old files have the key `rope_theta`; new ones have it inside `rope_parameters`, with others."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope = rope if isinstance(rope, dict) else {"rope_type": rope}
    values = {"rope_theta": 10_000.0, "partial_rotary_factor": 1.0, "rope_type": rope.get("type", "default")}
    values |= {key: config[key] for key in values if key in config}
    values |= rope
    is_plain = values["rope_type"] == "default" and values["partial_rotary_factor"] == 1.0
    if not is_plain or any(isinstance(value, dict) for value in rope.values()):
        raise UserError(
            f"'{source}' has rotary positions that fledge does not support: {rope or values}",
            "it supports plain ones: one base, no scaling",
        )
    return values["rope_theta"]


def config_from_model(model: ModelConfig, architecture: HFArchitecture) -> Json:
    ours = resolved_settings(model)
    config = {
        key: ACTIVATION_OF[ours[name]] if name == "mlp" else ours[name] for key, (name, _) in architecture.keys.items()
    }
    config |= {key: model.dropout_at(place) for key, place in architecture.dropouts.items()}
    if model.positions == "rotary":
        base = model.rotary_base
        config |= {"rope_theta": base, "rope_parameters": {"rope_type": "default", "rope_theta": base}}
    identity = {"architectures": [architecture.name], "model_type": architecture.model_type}
    return {**identity, **config, **architecture.fixed, "dtype": "float32"}


def choose_hf_architecture(model: ModelConfig) -> HFArchitecture:
    """The transformers class to export the model as.

    Never Qwen2: transformers would load Qwen's own tokenizer whatever the folder holds. A Llama with one more bias
    computes the same.
    """
    candidates = {name: each.constraints_of for name, each in HF_ARCHITECTURES.items() if each is not QWEN2}
    return HF_ARCHITECTURES[compatibility.choose_architecture(model, candidates, "transformers")]
