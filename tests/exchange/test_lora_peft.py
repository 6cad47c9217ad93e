"""LoRA against peft: the exported base model with the same adapters, in float32."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fledge.checkpoint.state import weights_of
from fledge.exchange.huggingface import write_hf_folder
from fledge.exchange.names import HF_LLAMA
from fledge.losses.cross_entropy import full_logits_loss
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build, merged_copy
from fledge.model.lora import LoRALinear, freeze_base
from fledge.tokenizers.hf import HFTokenizer

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

TOLERANCE, MERGED_TOLERANCE = 1e-4, 1e-5
LLAMA = ModelConfig(
    n_layer=2, n_head=4, n_kv_head=2, n_embd=32, context=24, vocab_size=280, qk_norm=False, norm_eps=1e-5
)
IDS = torch.randint(280, (2, 24), generator=torch.Generator().manual_seed(1))


def their_name(name: str) -> str:
    """`blocks.0.attention.query` → `model.layers.0.self_attn.q_proj`"""
    names = {row.ours[0]: row.theirs for row in HF_LLAMA.unrolled(LLAMA.n_layer)}
    return names[name]


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(params=[None, 5.0], ids=["alpha 2r", "alpha 5"])
def models(request: Any, tmp_path: Path) -> tuple[GPT, Any]:
    """Ours with trained adapters, and peft's around the exported base model."""
    ours = freeze_base(build(replace(LLAMA, lora=4, lora_alpha=request.param), 3)).eval()
    tokenizer = HFTokenizer.train(["the duck wrote a letter to the other duck " * 9], 280, exact=False)
    assert write_hf_folder(tmp_path, merged_copy(ours), tokenizer) == "LlamaForCausalLM"
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    adapters = {name: module for name, module in ours.named_modules() if isinstance(module, LoRALinear)}
    targets = sorted({their_name(name).rpartition(".")[2] for name in adapters})
    assert len(targets) == 7
    config = peft.LoraConfig(r=4, lora_alpha=request.param or 8, target_modules=targets, lora_dropout=0.0, bias="none")
    theirs = peft.get_peft_model(base, config).eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, adapter in adapters.items():
            adapter.lora_b.normal_(0, 0.1, generator=generator)
            layer = theirs.base_model.model.get_submodule(their_name(name))
            layer.lora_A["default"].weight.copy_(adapter.lora_a)
            layer.lora_B["default"].weight.copy_(adapter.lora_b)
    return ours, theirs


def test_logits_and_gradients_equal_peft(models: tuple[GPT, Any]) -> None:
    ours, theirs = models
    found, expected = ours(IDS), theirs(IDS).logits
    assert relative(found.detach(), expected.detach()) < TOLERANCE
    ours.forward_loss(IDS[:, :-1], IDS[:, 1:], full_logits_loss).backward()
    F.cross_entropy(theirs(IDS[:, :-1]).logits.flatten(0, 1), IDS[:, 1:].flatten(), reduction="sum").backward()
    compared = 0
    for name, adapter in ours.named_modules():
        if isinstance(adapter, LoRALinear):
            layer = theirs.base_model.model.get_submodule(their_name(name))
            pairs = ((adapter.lora_a, layer.lora_A), (adapter.lora_b, layer.lora_B))
            for weight, their_part in pairs:
                assert weight.grad is not None
                assert relative(weight.grad, their_part["default"].weight.grad) < TOLERANCE, name
                compared += 1
    assert compared == 2 * 7 * LLAMA.n_layer
    trained = sum(p.numel() for p in ours.parameters() if p.requires_grad)
    assert trained == sum(p.numel() for p in theirs.parameters() if p.requires_grad)


def test_merged_weights_equal_peft(models: tuple[GPT, Any]) -> None:
    ours, theirs = models
    merged = merged_copy(ours)
    expected = theirs.merge_and_unload()
    with torch.no_grad():
        assert relative(merged(IDS), ours(IDS)) < MERGED_TOLERANCE
        assert relative(merged(IDS), expected(IDS).logits) < TOLERANCE
    weights = weights_of(merged)
    name = "blocks.1.mlp.down.weight"
    assert relative(weights[name], expected.get_parameter(f"{their_name(name.removesuffix('.weight'))}.weight")) < 1e-6
