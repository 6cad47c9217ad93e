"""The residual stream of a text: the hidden vectors that each block reads and adds to."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fledge.core.errors import UserError
from fledge.model.gpt import GPT
from fledge.tokenizers.base import Tokenizer


def encode_text(tokenizer: Tokenizer, text: str, context: int) -> Tensor:
    """The ids of a text that fits in the context [T]"""
    ids = torch.from_numpy(tokenizer.encode(text).astype("int64"))
    if not len(ids):
        raise UserError("the text is empty", "give at least one character")
    if len(ids) > context:
        raise UserError(
            f"the text has {len(ids):,} tokens, and the model sees {context:,} at once", "choose a shorter part of it"
        )
    return ids


@torch.no_grad()
def residual_stream(model: GPT, ids: Tensor) -> Iterator[Tensor]:
    """ids [B, T] → hidden vectors [B, T, C] before the first block, then after each, one at a time.

    The final norm of the last one is `model.hidden(ids)`.
    """
    assert not model.training, "dropout would change what is looked at: call model.eval()"
    past = model.no_cache
    x, positions = model.embedded(ids.to(model.embed.weight.device), past)
    yield x
    for block, layer_past in zip(model.blocks, past.layers, strict=True):
        x = block(x, positions, layer_past)
        yield x


def whole_stream(model: GPT, ids: Tensor) -> Tensor:
    """ids [T] → [L + 1, T, C], for what looks at one text in several ways."""
    return torch.cat(list(residual_stream(model, ids[None])))
