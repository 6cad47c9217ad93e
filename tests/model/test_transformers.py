"""The same weights in transformers give the same logits and the same greedy tokens."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from fledge.checkpoint.state import load_weights
from fledge.core.device import Machine
from fledge.inference.generate import generate
from fledge.inference.sampler import Greedy
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from tiny import GPT2_PARTS

transformers = pytest.importorskip("transformers")

CPU = Machine("cpu", "float32")
IDS = torch.randint(61, (2, 20), generator=torch.Generator().manual_seed(1))
Weights = dict[str, torch.Tensor]

SHAPE = ModelConfig(n_layer=2, n_head=4, n_embd=32, context=96, vocab_size=61)
GPT2 = replace(SHAPE, mlp="gelu_tanh", qk_norm=False, tied=True, **GPT2_PARTS)
MODERN = replace(SHAPE, n_kv_head=2, mlp_width=48)
LLAMA = replace(MODERN, qk_norm=False)

# class of transformers, and our config for the same model
PAIRS = [
    ("GPT2", GPT2),
    ("GPT2", replace(GPT2, mlp="gelu", norm_eps=1e-3)),
    ("GPT2", replace(GPT2, mlp="relu", mlp_width=40)),
    ("Llama", LLAMA),
    ("Llama", replace(LLAMA, norm_eps=1e-5, rotary_base=500_000.0, head_dim=12, tied=True)),
    ("Llama", replace(LLAMA, qkv_bias=True, output_bias=True, mlp_bias=True, n_kv_head=1)),
    ("Qwen2", replace(LLAMA, qkv_bias=True, rotary_base=1e6, tied=True)),
    ("Qwen3", MODERN),
    ("Qwen3", replace(MODERN, n_kv_head=None, head_dim=16, rotary_base=1e6, tied=True)),
    ("Mistral", replace(LLAMA, window=7)),
    ("Qwen3", replace(MODERN, window=7)),
]


def name_of(value: object) -> str:
    return value if isinstance(value, str) else ""


def gpt2_of(config: ModelConfig) -> Any:
    activations = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.context,
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_inner=config.mlp_hidden_width,
            activation_function=activations[config.mlp],
            layer_norm_epsilon=config.eps,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def rotary_of(family: str, config: ModelConfig) -> Any:
    window = {"sliding_window": config.window, "use_sliding_window": True, "max_window_layers": 0}
    shape = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.n_embd,
        "intermediate_size": config.mlp_hidden_width,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rotary_base},
        "tie_word_embeddings": config.tied,
        "attention_bias": config.output_bias,
        "mlp_bias": config.mlp_bias,
        "bos_token_id": None,
        "eos_token_id": None,
    } | (window if config.window else {})
    return getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**shape))


def randomise(model: torch.nn.Module) -> None:
    """Random weights, biases and norms; embeddings and biases small, or the model would only repeat one token."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            is_norm = "norm" in name or "ln_" in name
            size = 0.03 if "wte" in name or "embed" in name or name.endswith("bias") else 0.2
            p.copy_(1 + 0.2 * noise if is_norm and name.endswith("weight") else size * noise)


def from_gpt2_names(source: Weights, config: ModelConfig) -> Weights:
    weights = {"embed.weight": source["transformer.wte.weight"], "positions.weight": source["transformer.wpe.weight"]}
    weights |= {f"norm.{kind}": source[f"transformer.ln_f.{kind}"] for kind in ("weight", "bias")}
    maps = {"attention.output": "attn.c_proj", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
    for i in range(config.n_layer):
        for kind in ("weight", "bias"):
            old, new = f"transformer.h.{i}", f"blocks.{i}"
            weights[f"{new}.attention_norm.{kind}"] = source[f"{old}.ln_1.{kind}"]
            weights[f"{new}.mlp_norm.{kind}"] = source[f"{old}.ln_2.{kind}"]
            together = source[f"{old}.attn.c_attn.{kind}"].chunk(3, -1)
            parts = dict(zip(("attention.query", "attention.key", "attention.value"), together, strict=True))
            parts |= {ours: source[f"{old}.{theirs}.{kind}"] for ours, theirs in maps.items()}
            weights |= {f"{new}.{name}.{kind}": part.mT if part.ndim == 2 else part for name, part in parts.items()}
    return weights  # GPT-2's matrices are transposed


def from_llama_names(source: Weights, config: ModelConfig) -> Weights:
    names = {"embed": "model.embed_tokens", "norm": "model.norm"} | ({} if config.tied else {"head": "lm_head"})
    parts = {
        "attention_norm": "input_layernorm",
        "mlp_norm": "post_attention_layernorm",
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.output": "self_attn.o_proj",
        "attention.query_norm": "self_attn.q_norm",
        "attention.key_norm": "self_attn.k_norm",
        "mlp.up": "mlp.up_proj",
        "mlp.gate": "mlp.gate_proj",
        "mlp.down": "mlp.down_proj",
    }
    for i in range(config.n_layer):
        names |= {f"blocks.{i}.{ours}": f"model.layers.{i}.{theirs}" for ours, theirs in parts.items()}
    found = {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in names.items() for kind in ("weight", "bias")}
    return {ours: source[theirs] for ours, theirs in found.items() if theirs in source}


def make_pair(family: str, config: ModelConfig) -> tuple[GPT, Any]:
    theirs = gpt2_of(config) if family == "GPT2" else rotary_of(family, config)
    theirs.set_attn_implementation("eager")
    randomise(theirs)
    ours = GPT(config)
    read = from_gpt2_names if family == "GPT2" else from_llama_names
    load_weights(ours, read(theirs.state_dict(), config))
    return ours.eval(), theirs.eval()


@torch.no_grad()
def distance(ours: GPT, theirs: Any) -> float:
    logits = ours(IDS)
    assert logits.std() > 0.1
    return float((logits - theirs(IDS).logits).abs().max())


@pytest.mark.parametrize(("family", "config"), PAIRS, ids=name_of)
@pytest.mark.parametrize("attention", ["sdpa", "blocked", "readable"])
def test_logits_equal_transformers(family: str, config: ModelConfig, attention: Any) -> None:
    ours, theirs = make_pair(family, replace(config, attention=attention))
    assert sum(p.numel() for p in ours.parameters()) == theirs.num_parameters()
    assert distance(ours, theirs) < 1e-4


@pytest.mark.parametrize(("family", "config"), PAIRS, ids=name_of)
def test_greedy_tokens_equal_transformers(family: str, config: ModelConfig) -> None:
    """Greedy, with a cache, ours and theirs."""
    ours, theirs = make_pair(family, config)
    with torch.no_grad():
        written = theirs.generate(
            IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=64, do_sample=False, pad_token_id=0
        )
    found = torch.stack(list(generate(ours, IDS, (Greedy(),), CPU, 64, seed=0)), dim=1)
    assert len(found.unique()) > 8
    assert torch.equal(found, written[:, IDS.shape[1] :])


@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
def test_tiny_queries_and_keys_equal_transformers(family: str) -> None:
    config = MODERN if family == "Qwen3" else LLAMA
    ours, theirs = make_pair(family, config)
    with torch.no_grad():
        for layer in theirs.model.layers:
            layer.self_attn.q_proj.weight.mul_(1e-3)
            layer.self_attn.k_proj.weight.mul_(1e-3)
    load_weights(ours, from_llama_names(theirs.state_dict(), config))
    assert distance(ours, theirs) < 1e-4
