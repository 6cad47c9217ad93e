"""nanoGPT's `ckpt.pt`: its weights and the shape that it trained.

Opened for tensors and plain values only. The vocabulary of its character datasets lies in a `meta.pkl`, which is never
opened, as a pickle can run anything: it is made again from the text, or given as a tokenizer.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fledge.core.errors import UserError
from fledge.exchange import hf_tokenizer
from fledge.exchange.hf_config import build_model_config
from fledge.exchange.model_source import ForeignModel
from fledge.exchange.names import NANOGPT
from fledge.exchange.tensors import convert_weights, read_torch_file
from fledge.tokenizers.base import Tokenizer

WRAPPER = "_orig_mod."  # what torch.compile puts before each name
SAME_NAMES = ("n_layer", "n_head", "n_embd", "vocab_size", "dropout")  # as ours
VOCABULARY = (
    "from the text that it was trained on: --characters input.txt; or, if that was GPT-2's encoding: --tokenizer gpt2"
)


def read_nanogpt(path: Path, given: Tokenizer | None) -> ForeignModel:
    content = read_torch_file(path)
    tensors, args = (content.get(key) if isinstance(content, dict) else None for key in ("model", "model_args"))
    if not isinstance(args, dict) or not isinstance(tensors, dict) or not all(map(torch.is_tensor, tensors.values())):
        raise UserError(
            f"'{path}' is no checkpoint of nanoGPT: it lacks a model of tensors, or its model_args",
            "its files are called ckpt.pt",
        )
    model = build_model_config(_settings(args, path), str(path))
    tensors = {str(name).removeprefix(WRAPPER): tensor for name, tensor in tensors.items()}
    if given is None:
        raise UserError(f"'{path}' does not hold its vocabulary", VOCABULARY)
    hf_tokenizer.check_tokenizer_size(given, model)
    if given.kind == "char" and given.vocab_size != model.vocab_size:
        raise UserError(
            f"the text has {given.vocab_size} different characters, and the model {model.vocab_size}",
            "give the very text that it was trained on, whole",
        )
    return ForeignModel("nanoGPT", model, convert_weights(tensors, model, NANOGPT, str(path)), given)


def _settings(args: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What nanoGPT always builds: learned positions, LayerNorm, the exact GELU, a tied head; biases in all or none."""
    if missing := [name for name in (*SAME_NAMES, "block_size") if name not in args]:
        raise UserError(f"the model_args of '{path}' lack {', '.join(missing)}", "fetch or copy the file again")
    biases = dict.fromkeys(("qkv_bias", "output_bias", "mlp_bias", "norm_bias"), args.get("bias", True))
    parts = {"positions": "learned", "norm": "layernorm", "mlp": "gelu", "qk_norm": False, "tied": True}
    return {**{name: args[name] for name in SAME_NAMES}, **biases, **parts, "context": args["block_size"]}
