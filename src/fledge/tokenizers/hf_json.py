"""Shared by all tokenizers: the structure of `tokenizer.json`, special tokens, the error for an unknown id."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fledge.core.errors import UserError

CHAT_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")  # of our chat template
# The names of the end-of-text token in the files of well-known models.
END_OF_TEXT_NAMES = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "<|im_end|>")


def tokenizer_json(
    model: Mapping[str, Any],
    pre_tokenizer: Mapping[str, Any],
    decoder: Mapping[str, Any],
    specials: Sequence[tuple[int, str]],
) -> dict[str, Any]:
    """The content of a `tokenizer.json`; `specials`: id and text of each special token."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens_json((i, text, True) for i, text in specials),
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


def end_of_text_name(specials: Sequence[str]) -> str | None:
    """Which special token ends a text: one with a usual name, or the only one beside the chat tokens."""
    others = [name for name in specials if name not in CHAT_TOKENS]
    return next((name for name in END_OF_TEXT_NAMES if name in others), others[0] if len(others) == 1 else None)


def unknown_id_error(token: int, vocab_size: int) -> UserError:
    return UserError(
        f"there is no token {token} in a vocabulary of {vocab_size}",
        f"ids run from 0 to {vocab_size - 1}: were these made with another tokenizer?",
    )
