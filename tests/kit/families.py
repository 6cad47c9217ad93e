"""A small model of every family of presets, for tests of inference."""

from dataclasses import replace
from typing import Any

import torch

from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from pairs import with_pairs

CONTEXT, V = 24, 67
BASE = ModelConfig(n_layer=2, n_head=4, n_embd=32, context=CONTEXT, vocab_size=V)
GPT2: dict[str, Any] = {"positions": "learned", "norm": "layernorm", "qk_norm": False, "tied": True}
BIASES: dict[str, Any] = dict.fromkeys(("norm_bias", "qkv_bias", "output_bias", "mlp_bias"), True)
FAMILIES = {
    "gpt2": replace(BASE, **GPT2, **BIASES, mlp="gelu_tanh"),
    "nanogpt": replace(BASE, **GPT2, mlp="gelu"),
    "smol-gpt": replace(BASE, **{**GPT2, "tied": False}, mlp="relu"),
    "toygpt": replace(BASE, **{**GPT2, "positions": "sinusoidal"}, **BIASES, mlp="gelu", head_bias=True),
    "scratch": replace(BASE, **GPT2, mlp="relu2", head_dim=4),
    "modern": replace(BASE, n_kv_head=2, tied=True),
    "sprint": replace(BASE, n_head=2, bigram_rows=V * V),
    "hashed": replace(BASE, bigram_rows=100, n_kv_head=1),
    "text": replace(BASE, bigram_rows=500, bigram_pairs="frequent", window=12),
    "window": replace(BASE, window=5, n_kv_head=2),
    "post-norm": replace(BASE, **{**GPT2, "tied": False}, **BIASES, mlp="relu", block="post_norm", head_bias=True),
    "norm-in-out": replace(BASE, **GPT2, mlp="gelu", block="norm_in_out", final_norm=False),
    "no final norm": replace(BASE, n_kv_head=2, final_norm=False),
    "softcap": replace(BASE, softcap=5.0, positions="learned", window=1),
}


def make_model(config: ModelConfig) -> GPT:
    """Weights so large that a wrong position or mask changes the logits."""
    model, generator = with_pairs(build(config, 1)).eval(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(float(p.ndim == 1), 0.3, generator=generator)
    return model


MODELS = {name: make_model(config) for name, config in FAMILIES.items()}
