"""A tokenizer with chat tokens (a byte each, and the four), its template, and a model so small that tests are fast."""

from typing import Any

import torch

from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.tokenizers.base import Tokenizer, parse_tokenizer
from fledge.tokenizers.chat_template import CHAT_TOKENS, ChatTemplate, Message, find_chat_template
from fledge.tokenizers.hf import HFTokenizer
from fledge.tokenizers.hf_json import added_tokens_json

VOCABULARY = 256 + len(CHAT_TOKENS)
END = 256 + CHAT_TOKENS.index("<|end|>")


def chat_tokenizer() -> Tokenizer:
    content = HFTokenizer.train(["a"], 256, exact=False).to_json()
    added = added_tokens_json((256 + i, token, True) for i, token in enumerate(CHAT_TOKENS))
    return parse_tokenizer({**content, "added_tokens": added}, "the test's")


def chat_template(tokenizer: Tokenizer | None = None) -> ChatTemplate:
    found = find_chat_template(tokenizer or chat_tokenizer(), {})
    assert found is not None
    return found


def tiny_model(seed: int = 0, **settings: Any) -> GPT:
    sizes = {"vocab_size": VOCABULARY, "context": 64, "n_layer": 1, "n_head": 2, "n_embd": 16} | settings
    return build(ModelConfig(**sizes), seed)


def noisy_llama(seed: int, **settings: Any) -> GPT:
    """A model that transformers and llama.cpp know, with weights that matter everywhere, also in the norms."""
    shape = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "head_dim": 8, "qk_norm": False, "norm_eps": 1e-5}
    model, generator = tiny_model(seed, **shape, **settings), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(1 + 0.2 * noise if "norm" in name else 0.2 * noise)
    return model.eval()


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}
