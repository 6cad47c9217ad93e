"""Shared by all tokenizers: the outer structure of `tokenizer.json`, and the error for an id outside the vocabulary."""

from collections.abc import Iterable, Mapping
from typing import Any

from fledge.core.errors import UserError


def tokenizer_json(
    model: Mapping[str, Any],
    pre_tokenizer: Mapping[str, Any],
    decoder: Mapping[str, Any],
    special: tuple[int, str] | None,
) -> dict[str, Any]:
    """The content of a `tokenizer.json`; `special` is the id and the text of the end-of-text token."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens_json([(*special, True)] if special else []),
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }


def added_tokens_json(tokens: Iterable[tuple[int, str, bool]]) -> list[dict[str, Any]]:
    """The `added_tokens` of the file, from the id and the text of each, and whether it is special."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [{"id": i, "content": content, **flags, "special": special} for i, content, special in tokens]


def unknown_id_error(token: int, vocab_size: int) -> UserError:
    return UserError(
        f"there is no token {token} in a vocabulary of {vocab_size}",
        f"ids run from 0 to {vocab_size - 1}: were these made with another tokenizer?",
    )
