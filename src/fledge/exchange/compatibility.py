"""Which architectures of other programs can hold a model, and which settings prevent it.

An architecture is described by a function of the model: the settings that the most similar model of that architecture
would have. If one of them differs, the architecture cannot hold the model. A missing bias is no obstacle: a bias of
zeros computes the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from fledge.checkpoint.state import Tensors, blank_weights
from fledge.core.errors import UserError
from fledge.model.config import ModelConfig

BLOCKS = {"block": "pre_norm", "final_norm": True}  # common to all architectures here

Constraints = Mapping[str, Any]  # setting → value
ConstraintsOf = Callable[[ModelConfig], Constraints]


class UnsupportedArchitecture(UserError):
    """No architecture of the other program can hold the model."""


@dataclass(frozen=True)
class CompatibleModel:
    """A model with every bias that the architecture requires."""

    model: ModelConfig
    weights: Tensors


def resolved_settings(model: ModelConfig) -> dict[str, Any]:
    """All settings of the model, with the derived value where one is unset."""
    derived = {"n_kv_head": model.kv_heads, "head_dim": model.head_width}
    return {**asdict(model), **derived, "mlp_width": model.mlp_hidden_width, "norm_eps": model.eps}


def added_biases(model: ModelConfig, constraints: Constraints) -> dict[str, Any]:
    """The biases that the architecture has and the model lacks."""
    return {
        key: True for key, value in constraints.items() if key.endswith("_bias") and value and not getattr(model, key)
    }


def incompatible_settings(model: ModelConfig, constraints: Constraints) -> dict[str, Any]:
    """The settings in which the model differs from the architecture, with the value that it would need."""
    settings, biases = resolved_settings(model), added_biases(model, constraints)
    return {key: value for key, value in constraints.items() if settings[key] != value and key not in biases}


def choose_architecture(model: ModelConfig, architectures: Mapping[str, ConstraintsOf], format_name: str) -> str:
    """The name of the architecture that holds the model with the fewest added biases.

    If there is none, the error names the settings that would have to differ for the closest architecture.
    """
    constraints = {name: constraints_of(model) for name, constraints_of in architectures.items()}
    differences = {name: incompatible_settings(model, each) for name, each in constraints.items()}
    closest = min(constraints, key=lambda name: (len(differences[name]), len(added_biases(model, constraints[name]))))
    if not differences[closest]:
        return closest
    settings = resolved_settings(model)
    present = ", ".join(f"model.{key} = {_as_setting(settings[key])}" for key in differences[closest])
    needed = " ".join(f"--model.{key} {_as_setting(value)}" for key, value in differences[closest].items())
    raise UnsupportedArchitecture(
        f"{format_name} has no architecture with {present}",
        f"a model trained with {needed} can be exported as {closest}",
    )


def _as_setting(value: Any) -> str:
    """The value as it is written on the command line."""
    return "null" if value is None else str(value).lower()


def with_biases(model: ModelConfig, constraints: Constraints) -> ModelConfig:
    return replace(model, **added_biases(model, constraints))


def make_compatible(model: ModelConfig, weights: Tensors, constraints: Constraints) -> CompatibleModel:
    """Add zeros for each bias that the architecture requires and the model lacks."""
    compatible = with_biases(model, constraints)
    missing = {name: blank for name, blank in blank_weights(compatible).items() if name not in weights}
    assert all(name.endswith(".bias") for name in missing), "only a bias may be missing"
    zeros = {name: torch.zeros(blank.shape) for name, blank in missing.items()}
    return CompatibleModel(compatible, {**weights, **zeros})


def divisible_width(model: ModelConfig) -> int:
    """The model's width, rounded down to a multiple of the number of heads."""
    return model.n_embd - model.n_embd % model.n_head or model.n_head


def gpt2_constraints(model: ModelConfig, mlps: Sequence[str] = ("gelu_tanh", "gelu", "relu", "relu2")) -> Constraints:
    """Every bias except the head's; the heads divide the width evenly."""
    return {
        **BLOCKS,
        "positions": "learned",
        "norm": "layernorm",
        "mlp": model.mlp if model.mlp in mlps else mlps[0],
        "n_embd": divisible_width(model),
        "n_kv_head": model.n_head,
        "head_dim": divisible_width(model) // model.n_head,
        "qk_norm": False,
        **dict.fromkeys(("qkv_bias", "output_bias", "mlp_bias", "norm_bias"), True),
        **dict.fromkeys(("window", "softcap", "bigram_rows")),
        "head_bias": False,
    }


def _modern_constraints(**changed: Any) -> Constraints:
    """Common to Llama and its successors: rotary positions, RMSNorm, SwiGLU."""
    parts = {**BLOCKS, "positions": "rotary", "norm": "rmsnorm", "mlp": "swiglu"}
    absent = {
        "norm_bias": False,
        "head_bias": False,
        "qkv_bias": False,
        "output_bias": False,
        "mlp_bias": False,
        "qk_norm": False,
    }
    return {**parts, **absent, "window": None, "softcap": None, "bigram_rows": None, **changed}


def llama_constraints(model: ModelConfig) -> Constraints:
    """Biases in all of attention or in none of it, in all of the MLP or in none."""
    attention = model.qkv_bias or model.output_bias
    return _modern_constraints(
        qkv_bias=attention, output_bias=attention, mlp_bias=model.mlp_bias, n_embd=divisible_width(model)
    )


def mistral_constraints(model: ModelConfig) -> Constraints:
    return _modern_constraints(window=model.window)


def qwen2_constraints(_: ModelConfig) -> Constraints:
    return _modern_constraints(qkv_bias=True)


def qwen3_constraints(model: ModelConfig) -> Constraints:
    attention = model.qkv_bias or model.output_bias
    return _modern_constraints(qkv_bias=attention, output_bias=attention, qk_norm=True)
