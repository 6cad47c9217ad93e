"""Which of our models other programs have a class for, and what is in the way where they have none.

A class is told by `parts`: given a model, what the nearest model of that class would be made of. Where the two differ,
the class cannot hold the model. One difference is none: a bias that the class has and the model lacks is a bias of 0.

Knows no files, and no names of weights (names.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from fledge.checkpoint.state import Tensors, blank_weights
from fledge.core.errors import UserError
from fledge.model.config import ModelConfig

Constraints = Mapping[str, Any]


class UnsupportedArchitecture(UserError):
    """A model that other programs cannot hold."""


@dataclass(frozen=True)
class CompatibleModel:
    """What a class makes of a model: the model with each bias that the class wants, and the weights with them."""

    model: ModelConfig
    weights: Tensors


def resolved_settings(model: ModelConfig) -> dict[str, Any]:
    """All settings, those left open told as the numbers that they stand for."""
    told = {"n_kv_head": model.kv_heads, "head_dim": model.head_width}
    return {**asdict(model), **told, "mlp_width": model.hidden_width, "norm_eps": model.eps}


def added_biases(model: ModelConfig, parts: Constraints) -> dict[str, Any]:
    """The biases that the class has and the model lacks."""
    return {key: True for key, value in parts.items() if key.endswith("_bias") and value and not getattr(model, key)}


def incompatibilities(model: ModelConfig, parts: Constraints) -> dict[str, Any]:
    """Which settings the class would have otherwise, and how."""
    ours, harmless = resolved_settings(model), added_biases(model, parts)
    return {key: value for key, value in parts.items() if ours[key] != value and key not in harmless}


def choose_architecture(
    model: ModelConfig, classes: Mapping[str, Callable[[ModelConfig], Constraints]], whose: str
) -> str:
    """The class that can hold the model, with as few new biases as may be; where none can, the nearest one is told."""
    wanted = {name: parts(model) for name, parts in classes.items()}
    obstacles = {name: incompatibilities(model, parts) for name, parts in wanted.items()}
    nearest = min(wanted, key=lambda name: (len(obstacles[name]), len(added_biases(model, wanted[name]))))
    if not obstacles[nearest]:
        return nearest
    ours = resolved_settings(model)
    have = ", ".join(f"model.{key} = {_told(ours[key])}" for key in obstacles[nearest])
    want = " ".join(f"--model.{key} {_told(value)}" for key, value in obstacles[nearest].items())
    raise UnsupportedArchitecture(
        f"{whose} have no class for {have}", f"a model trained with {want} can go there, as {nearest}"
    )


def _told(value: Any) -> str:
    """A value as it is written in settings."""
    return "null" if value is None else str(value).lower()


def with_biases(model: ModelConfig, parts: Constraints) -> ModelConfig:
    return replace(model, **added_biases(model, parts))


def make_compatible(model: ModelConfig, weights: Tensors, parts: Constraints) -> CompatibleModel:
    held = with_biases(model, parts)
    missing = {name: blank for name, blank in blank_weights(held).items() if name not in weights}
    assert all(name.endswith(".bias") for name in missing), "only a bias may be missing"
    return CompatibleModel(held, {**weights, **{name: torch.zeros(blank.shape) for name, blank in missing.items()}})


def divisible_width(model: ModelConfig) -> int:
    """The nearest width that heads can divide among themselves: the model's own, or the next below."""
    return model.n_embd - model.n_embd % model.n_head or model.n_head


def gpt2(model: ModelConfig, mlps: Sequence[str] = ("gelu_tanh", "gelu", "relu", "relu2")) -> Constraints:
    """Every bias but the head's, and heads that divide the width among themselves."""
    return {
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


def _modern(**own: Any) -> Constraints:
    """Rotary positions, RMSNorm and SwiGLU: what Llama and those after it have in common."""
    common = {"positions": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "norm_bias": False, "head_bias": False}
    plain = {"qkv_bias": False, "output_bias": False, "mlp_bias": False, "qk_norm": False}
    return {**common, **plain, "window": None, "softcap": None, "bigram_rows": None, **own}


def llama(model: ModelConfig) -> Constraints:
    """Biases in all of attention or in none of it, in all of the MLP or in none."""
    attention = model.qkv_bias or model.output_bias
    return _modern(qkv_bias=attention, output_bias=attention, mlp_bias=model.mlp_bias, n_embd=divisible_width(model))


def mistral(model: ModelConfig) -> Constraints:
    return _modern(window=model.window)


def qwen2(_: ModelConfig) -> Constraints:
    return _modern(qkv_bias=True)


def qwen3(model: ModelConfig) -> Constraints:
    attention = model.qkv_bias or model.output_bias
    return _modern(qkv_bias=attention, output_bias=attention, qk_norm=True)
