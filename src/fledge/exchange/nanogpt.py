"""nanoGPT's `ckpt.pt`: its weights and the shape that it trained.

Opened for tensors and plain values only. The vocabulary of its character datasets lies in a `meta.pkl`, which is never
opened, as a pickle can run anything: it is made again from the text, or given as a tokenizer.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fledge.base.errors import UserError
from fledge.exchange import vocabulary
from fledge.exchange.configs import checked
from fledge.exchange.names import NANOGPT
from fledge.exchange.sources import Found
from fledge.exchange.tensors import fitted, read_pickle
from fledge.tokens.tokenizer import Tokenizer

WRAPPER = "_orig_mod."  # what torch.compile puts before each name
VOCABULARY = (
    "from the text that it was trained on: --characters input.txt; or, if that was GPT-2's encoding: --tokenizer gpt2"
)


def read(path: Path, given: Tokenizer | None) -> Found:
    content = read_pickle(path)
    try:
        args, tensors = dict(content["model_args"]), dict(content["model"])
        model = checked(_settings(args), str(path))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"'{path}' is no checkpoint of nanoGPT: it lacks {error}", "its files are called ckpt.pt"
        ) from None
    tensors = {str(name).removeprefix(WRAPPER): tensor for name, tensor in tensors.items()}
    if not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise UserError(f"'{path}' is no checkpoint of nanoGPT: it holds no weights", "its files are called ckpt.pt")
    if given is None:
        raise UserError(f"'{path}' does not hold its vocabulary", VOCABULARY)
    vocabulary.check(given, model)
    if given.kind == "char" and given.vocab_size != model.vocab_size:
        raise UserError(
            f"the text has {given.vocab_size} different characters, and the model {model.vocab_size}",
            "give the very text that it was trained on, whole",
        )
    return Found("nanoGPT", model, fitted(tensors, model, NANOGPT, str(path)), given)


def _settings(args: Mapping[str, Any]) -> dict[str, Any]:
    """What nanoGPT always builds: learned positions, LayerNorm, the exact GELU, a tied head; biases in all or none."""
    sizes = {name: args[name] for name in ("n_layer", "n_head", "n_embd", "vocab_size", "dropout")}
    biases = dict.fromkeys(("qkv_bias", "output_bias", "mlp_bias", "norm_bias"), args.get("bias", True))
    parts = {"positions": "learned", "norm": "layernorm", "mlp": "gelu", "qk_norm": False, "tied": True}
    return {**sizes, **biases, **parts, "context": args["block_size"]}
