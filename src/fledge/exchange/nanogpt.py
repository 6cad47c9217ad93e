"""nanoGPT's `ckpt.pt`: its weights and the shape that it trained.

Opened for tensors and plain values only. The vocabulary of its character datasets lies in a `meta.pkl`, which is never
opened, as a pickle can run anything: it is made again from the text, or given as a tokenizer.
"""

from pathlib import Path
from typing import Any

import torch

from fledge.base.errors import UserError
from fledge.exchange import vocabulary
from fledge.exchange.names import NANOGPT
from fledge.exchange.sources import Found
from fledge.exchange.tensors import fitted, read_pickle
from fledge.model.config import ModelConfig
from fledge.tokens.tokenizer import Tokenizer

WRAPPER = "_orig_mod."  # what torch.compile puts before each name
VOCABULARY = (
    "from the text that it was trained on: --characters input.txt; or, if that was GPT-2's encoding: --tokenizer gpt2"
)


def read(path: Path, given: Tokenizer | None) -> Found:
    content = read_pickle(path)
    try:
        model = _model(content["model_args"])
        tensors = {str(name).removeprefix(WRAPPER): tensor for name, tensor in content["model"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"'{path}' is no checkpoint of nanoGPT ({error})", "its files are called ckpt.pt") from None
    if not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise UserError(f"'{path}' is no checkpoint of nanoGPT", "its files are called ckpt.pt")
    if given is None:
        raise UserError(f"'{path}' does not hold its vocabulary", VOCABULARY)
    vocabulary.check(given, model)
    if given.kind == "char" and given.vocab_size != model.vocab_size:
        raise UserError(
            f"the text has {given.vocab_size} different characters, and the model {model.vocab_size}",
            "give the very text that it was trained on, whole",
        )
    return Found("nanoGPT", model, fitted(tensors, model, NANOGPT, str(path)), given)


def _model(args: dict[str, Any]) -> ModelConfig:
    """What nanoGPT always builds: learned positions, LayerNorm, the exact GELU, a tied head; biases in all or none."""
    bias = bool(args.get("bias", True))
    return ModelConfig(
        n_layer=args["n_layer"],
        n_head=args["n_head"],
        n_embd=args["n_embd"],
        context=args["block_size"],
        vocab_size=args["vocab_size"],
        dropout=args["dropout"],
        positions="learned",
        norm="layernorm",
        mlp="gelu",
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=bias,
        norm_bias=bias,
        qk_norm=False,
        tied=True,
    )
