"""What is the same in every tokenizer that we make: the frame of its `tokenizer.json`, and refusing a foreign id."""

from collections.abc import Mapping
from typing import Any

from fledge.core.errors import UserError


def tokenizer_json(
    model: Mapping[str, Any],
    pre_tokenizer: Mapping[str, Any],
    decoder: Mapping[str, Any],
    special: tuple[int, str] | None,
) -> dict[str, Any]:
    """A whole `tokenizer.json` around its parts; `special` is the id and the spelling of the end-of-text token."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [{"id": special[0], "content": special[1], **flags, "special": True}] if special else []
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }


def unknown_id_error(token: int, vocab_size: int) -> UserError:
    """An id that the vocabulary has no place for: most often another tokenizer's."""
    return UserError(
        f"there is no token {token} in a vocabulary of {vocab_size}",
        f"ids run from 0 to {vocab_size - 1}: is this the tokenizer that they were made with?",
    )
