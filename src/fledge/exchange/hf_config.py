"""`config.json`, Hugging Face's description of a model ↔ our [model] section.

One entry for each class of transformers that our parts can build: what its keys are called, what is meant where one is
absent, and which must have a certain value because we have no part for another. Weights are named in names.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fledge.core.config import build
from fledge.core.errors import UserError
from fledge.exchange import compatibility, names
from fledge.exchange.compatibility import Constraints, resolved_settings
from fledge.exchange.names import Names
from fledge.model.config import ModelConfig

Json = dict[str, Any]
REQUIRED = object()  # stands for nothing: the key must be there
MLP_OF = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu", "relu2": "relu2"}
ACTIVATION_OF = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu", "relu2": "relu2"}


@dataclass(frozen=True)
class HFArchitecture:
    """How one class of transformers is told in `config.json`."""

    name: str
    model_type: str
    names: Names
    parts: Callable[[ModelConfig], Constraints]
    keys: Mapping[str, tuple[str, Any]]  # theirs → ours, and what is meant where it is absent
    must: Mapping[str, Any]  # theirs → the only value that we have a part for


@dataclass(frozen=True)
class _Described:
    model: ModelConfig


MODERN = {
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
BIASES = {"attention_bias": ("output_bias", False)}
LLAMA = HFArchitecture(
    "LlamaForCausalLM",
    "llama",
    names.HF_LLAMA,
    compatibility.llama,
    keys={**MODERN, **BIASES, "mlp_bias": ("mlp_bias", False)},
    must={"hidden_act": "silu", "rope_interleaved": False},
)
MISTRAL = HFArchitecture(
    "MistralForCausalLM",
    "mistral",
    names.HF_LLAMA,
    compatibility.mistral,
    keys={**MODERN, "num_key_value_heads": ("n_kv_head", 8), "sliding_window": ("window", 4096)},
    must={"hidden_act": "silu"},
)
QWEN2 = HFArchitecture(
    "Qwen2ForCausalLM",
    "qwen2",
    names.HF_LLAMA,
    compatibility.qwen2,
    keys={**MODERN, "num_key_value_heads": ("n_kv_head", 32)},
    must={"hidden_act": "silu", "use_sliding_window": False},
)
QWEN3 = HFArchitecture(
    "Qwen3ForCausalLM",
    "qwen3",
    names.HF_LLAMA,
    compatibility.qwen3,
    keys={**MODERN, **BIASES, "num_key_value_heads": ("n_kv_head", 32), "head_dim": ("head_dim", 128)},
    must={"hidden_act": "silu", "use_sliding_window": False},
)
GPT2 = HFArchitecture(
    "GPT2LMHeadModel",
    "gpt2",
    names.HF_GPT2,
    compatibility.gpt2,
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
        "embd_pdrop": ("dropout", 0.1),  # of three that may differ, the last one read is ours
        "attn_pdrop": ("dropout", 0.1),
        "resid_pdrop": ("dropout", 0.1),
    },
    must={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
)
HF_ARCHITECTURES = {each.name: each for each in (LLAMA, MISTRAL, QWEN2, QWEN3, GPT2)}


def model_from_config(config: Json, where: str) -> tuple[HFArchitecture, ModelConfig]:
    """What `config.json` describes; whatever we have no part for is refused by name."""
    kind = find_hf_architecture(config, where)
    for key, value in kind.must.items():
        if config.get(key, value) != value:
            raise UserError(
                f"'{where}' has {key} = {config[key]!r}, for which fledge has no part",
                f"{kind.name} with {value!r} can be read",
            )
    shape = {ours: _value(config, key, ours, silent, where) for key, (ours, silent) in kind.keys.items()}
    window = shape.pop("window", None)
    model = build_model_config({**shape, "positions": "learned"}, where)
    own = dict(kind.parts(model))
    if not (isinstance(window, int) and window >= model.context):  # one that reaches everything is none
        own["window"] = window
    if own["positions"] == "rotary":
        own["rotary_base"] = _rotary_base(config, where)
    return kind, build_model_config({**asdict(model), **own}, where)


def build_model_config(settings: Mapping[str, Any], where: str) -> ModelConfig:
    """Settings out of a foreign file: each of the right type, and together a model that can be."""
    try:
        return build(_Described, {"model": settings}).model
    except UserError as error:
        raise UserError(f"'{where}' describes no model: {error.message}", error.hint) from None


def find_hf_architecture(config: Json, where: str) -> HFArchitecture:
    if config.get("quantization_config"):
        raise UserError(f"the weights of '{where}' are quantised", "take the model as its author trained it")
    kind = config.get("model_type")
    for each in HF_ARCHITECTURES.values():
        if kind == each.model_type:
            return each
    known = ", ".join(f"{each.model_type} ({each.name})" for each in HF_ARCHITECTURES.values())
    raise UserError(f"'{where}' is of an architecture that fledge does not know: {kind}", f"it knows {known}")


def _value(config: Json, key: str, ours: str, silent: Any, where: str) -> Any:
    if silent is REQUIRED and config.get(key) is None:
        raise UserError(f"the config.json of '{where}' lacks {key}", "fetch or copy the file again")
    value = config.get(key, silent)
    if ours != "mlp":
        return value
    if not isinstance(value, str) or value not in MLP_OF:
        raise UserError(f"'{where}' has {key} = {value!r}, for which fledge has no part", f"it has {', '.join(MLP_OF)}")
    return MLP_OF[value]


def _rotary_base(config: Json, where: str) -> Any:
    """Under one name in old files, and under another, among more, in new ones."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope = rope if isinstance(rope, dict) else {"rope_type": rope}
    told = {"rope_theta": 10_000.0, "partial_rotary_factor": 1.0, "rope_type": rope.get("type", "default")}
    told |= {key: config[key] for key in told if key in config}
    told |= rope
    plain = told["rope_type"] == "default" and told["partial_rotary_factor"] == 1.0
    if not plain or any(isinstance(value, dict) for value in rope.values()):
        raise UserError(
            f"'{where}' has rotary positions of a kind that fledge has no part for: {rope or told}",
            "plain ones can be read: one base, no scaling",
        )
    return told["rope_theta"]


def config_from_model(model: ModelConfig, kind: HFArchitecture) -> Json:
    ours = resolved_settings(model)
    told = {key: ACTIVATION_OF[ours[name]] if name == "mlp" else ours[name] for key, (name, _) in kind.keys.items()}
    if model.positions == "rotary":
        base = model.rotary_base
        told |= {"rope_theta": base, "rope_parameters": {"rope_type": "default", "rope_theta": base}}
    return {"architectures": [kind.name], "model_type": kind.model_type, **told, **kind.must, "dtype": "float32"}


def choose_hf_architecture(model: ModelConfig) -> HFArchitecture:
    """The class that can hold the model. Not Qwen2's: transformers gives it Qwen's own tokenizer whatever the folder
    holds, and Llama's, with one bias more, computes the same."""
    written = {name: each.parts for name, each in HF_ARCHITECTURES.items() if each is not QWEN2}
    return HF_ARCHITECTURES[compatibility.choose_architecture(model, written, "Hugging Face's models")]
