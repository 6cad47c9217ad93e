"""More tokens for a trained model: new rows of the embedding, the head, and the table of bigrams.

A new row is the mean of the old ones plus a little noise, so at first every new token has about the same small
probability. A padded vocabulary has rows for some new tokens already; they were never trained, and are replaced.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fledge.model.config import ModelConfig

BIGRAM = "bigram.weight"


def with_vocabulary(model: ModelConfig, tokens: int) -> ModelConfig:
    """The model with room for `tokens` tokens. A padded vocabulary may have it.

    Where each pair of tokens has a row, the new pairs get rows, too. Else pairs keep the numbers that the old
    vocabulary gave them, so the old pairs keep their rows; the new ones share rows with others.
    """
    size = model.vocab_size
    assert size is not None
    if tokens <= size:
        return model
    if model.bigram_rows is None:
        return replace(model, vocab_size=tokens)
    if not model.has_all_bigrams:
        return replace(model, vocab_size=tokens, bigram_vocab=model.bigram_vocab or size)
    return replace(model, vocab_size=tokens, bigram_rows=max(model.bigram_rows, tokens**2))


def grow_vocabulary(
    weights: Mapping[str, Tensor], new: Mapping[str, Tensor], known: int, tokens: int
) -> dict[str, Tensor]:
    """weights: of a model whose tokenizer had `known` tokens; new: of a new model with room for `tokens` of them."""
    grown = dict(weights)
    for name in ("embed.weight", "head.weight", "head.bias"):
        if name in weights:
            old, noise = weights[name], new[name]
            grown[name] = torch.cat((old, noise[len(old) :]))
            grown[name][known:tokens] = old[:known].mean(0) + noise[known:tokens]
    if BIGRAM in weights and weights[BIGRAM].shape != new[BIGRAM].shape:  # a row for each pair: a square of them
        before, after = len(weights["embed.weight"]), len(new["embed.weight"])
        table = new[BIGRAM].clone().view(after, after, -1)
        table[:before, :before] = weights[BIGRAM].view(before, before, -1)
        grown[BIGRAM] = table.flatten(0, 1)
    return grown
