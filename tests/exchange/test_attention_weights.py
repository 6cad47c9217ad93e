"""Attention weights of exported models: those of transformers and of TransformerLens are ours."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fledge.exchange import huggingface
from fledge.insight.attention import attention_weights
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.tokenizers.hf import HFTokenizer

from .conftest import SHAPES, VOCABULARY

transformers = pytest.importorskip("transformers")

IDS = torch.randint(VOCABULARY, (40,), generator=torch.Generator().manual_seed(1))
EXPORTED = [name for name in SHAPES if name != "Qwen2ForCausalLM"]  # exported as a Llama


@torch.no_grad()
@pytest.mark.parametrize("name", EXPORTED)
def test_exported_model_has_the_same_attention_in_transformers(
    make: Callable[[ModelConfig], GPT], tokenizer: HFTokenizer, tmp_path: Path, name: str
) -> None:
    model = make(SHAPES[name])
    assert huggingface.write_hf_folder(tmp_path, model, tokenizer) == name
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    found = torch.cat(theirs(IDS[None], output_attentions=True).attentions)
    torch.testing.assert_close(attention_weights(model, IDS), found, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", EXPORTED)
def test_exported_model_opens_in_transformer_lens(
    make: Callable[[ModelConfig], GPT], tokenizer: HFTokenizer, tmp_path: Path, name: str
) -> None:
    bridge = pytest.importorskip("transformer_lens.model_bridge", reason="transformer-lens is not installed")
    model = make(SHAPES[name])
    huggingface.write_hf_folder(tmp_path, model, tokenizer)
    theirs = bridge.TransformerBridge.boot_transformers(str(tmp_path), device="cpu")
    logits, cache = theirs.run_with_cache(IDS[None])
    torch.testing.assert_close(model(IDS[None]), logits, atol=1e-4, rtol=1e-4)
    found = torch.cat([cache[f"blocks.{layer}.attn.hook_pattern"] for layer in range(model.config.n_layer)])
    torch.testing.assert_close(attention_weights(model, IDS), found, atol=1e-5, rtol=1e-4)
