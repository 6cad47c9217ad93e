"""Read nanoGPT's `ckpt.pt`: the weights and the `model_args`.

The file is opened for tensors and plain values only. The vocabulary of nanoGPT's character datasets is in a separate
`meta.pkl`, which is never opened, as a pickle can run any code: the vocabulary is rebuilt from the text, or a tokenizer
is given.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fledge.core.errors import UserError
from fledge.exchange import hf_tokenizer
from fledge.exchange.hf_config import build_model_config
from fledge.exchange.model_source import ExternalModel
from fledge.exchange.names import NANOGPT
from fledge.exchange.tensors import DOWNLOAD_AGAIN, convert_weights, read_torch_file
from fledge.model.config import ModelConfig
from fledge.tokenizers.base import Tokenizer

COMPILE_PREFIX = "_orig_mod."  # torch.compile puts it before each name
SAME_NAMES = ("n_layer", "n_head", "n_embd", "vocab_size", "dropout")  # as in our [model] section
TOKENIZER_HINT = "give its training text: --characters input.txt; or, if it was encoded as GPT-2's: --tokenizer gpt2"


def read_nanogpt(path: Path, tokenizer: Tokenizer | None) -> ExternalModel:
    content = read_torch_file(path)
    tensors, args = (content.get(key) if isinstance(content, dict) else None for key in ("model", "model_args"))
    if not isinstance(args, dict) or not isinstance(tensors, dict) or not all(map(torch.is_tensor, tensors.values())):
        raise UserError(
            f"'{path}' is not a checkpoint of nanoGPT: it lacks a 'model' of tensors, or 'model_args'",
            "give a file that nanoGPT's train.py has written (ckpt.pt)",
        )
    model = build_model_config(_model_settings(args, path), str(path))
    tensors = {str(name).removeprefix(COMPILE_PREFIX): tensor for name, tensor in tensors.items()}
    if tokenizer is None:
        raise UserError(f"'{path}' does not contain its vocabulary", TOKENIZER_HINT)
    _check_vocabulary(tokenizer, model)
    return ExternalModel("nanoGPT", model, convert_weights(tensors, model, NANOGPT, str(path)), tokenizer)


def _check_vocabulary(tokenizer: Tokenizer, model: ModelConfig) -> None:
    hf_tokenizer.check_tokenizer_size(tokenizer, model)
    if tokenizer.kind == "char" and tokenizer.vocab_size != model.vocab_size:
        raise UserError(
            f"the text has {tokenizer.vocab_size} different characters, but the model has {model.vocab_size}",
            "give the complete text that it was trained on",
        )


def _model_settings(args: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """nanoGPT always has learned positions, LayerNorm, exact GELU and a tied head; biases everywhere or nowhere."""
    if missing := [name for name in (*SAME_NAMES, "block_size") if name not in args]:
        raise UserError(f"the model_args of '{path}' lack {', '.join(missing)}", DOWNLOAD_AGAIN)
    biases = dict.fromkeys(("qkv_bias", "output_bias", "mlp_bias", "norm_bias"), args.get("bias", True))
    parts = {"positions": "learned", "norm": "layernorm", "mlp": "gelu", "qk_norm": False, "tied": True}
    return {**{name: args[name] for name in SAME_NAMES}, **biases, **parts, "context": args["block_size"]}
