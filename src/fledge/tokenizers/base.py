"""The interface of every tokenizer, and how one is saved and loaded.

All tokenizers are saved in Hugging Face's `tokenizer.json` format, so that other programs can read them.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fledge.core import fast_json
from fledge.core.errors import UserError
from fledge.core.files import read_json, write_atomic
from fledge.tokenizers.char import CharTokenizer
from fledge.tokenizers.hf import HFTokenizer

Ids = NDArray[np.uint32]
END_OF_TEXT = "<|endoftext|>"


class Tokenizer(Protocol):
    @property
    def kind(self) -> str: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def end_of_text(self) -> int | None:
        """The id that ends a document, or None if the vocabulary has no such token."""

    def encode(self, text: str) -> Ids:
        """Encode plain text. Text that looks like a special token is encoded like any other text."""

    def decode(self, ids: Iterable[int]) -> str:
        """Decode ids. Invalid UTF-8 becomes '�'; an id outside the vocabulary is an error."""

    def id_to_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes of one token: possibly part of a character, empty for a special token."""

    def to_json(self) -> dict[str, Any]:
        """The content of `tokenizer.json`."""


def serialize_tokenizer(tokenizer: Tokenizer) -> bytes:
    """The bytes of the file `tokenizer.json`."""
    return fast_json.dumps(tokenizer.to_json(), indent=True)


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    write_atomic(path, serialize_tokenizer(tokenizer))


def load_tokenizer(path: Path) -> Tokenizer:
    return parse_tokenizer(read_json(path, "the tokenizer"), f"'{path}'")


def parse_tokenizer(content: dict[str, Any], name: str) -> Tokenizer:
    """A tokenizer from the content of a `tokenizer.json`; `name` appears in the error message."""
    loaders: dict[str, Callable[[dict[str, Any]], Tokenizer]] = {
        "WordLevel": CharTokenizer.from_json,
        "BPE": HFTokenizer.from_json,
        "Unigram": HFTokenizer.from_json,
        "WordPiece": HFTokenizer.from_json,
    }
    try:
        return loaders[content["model"]["type"]](content)
    except Exception as error:  # the `tokenizers` library raises plain Exception for files that it cannot read
        raise UserError(
            f"{name} is not a tokenizer that fledge can load ({error})", "train one with 'fledge tokenizer train'"
        ) from None


def fingerprint(tokenizer: Tokenizer) -> str:
    """A hash of the content: tokenizers with equal fingerprints give the same ids."""
    return hashlib.sha256(json.dumps(tokenizer.to_json(), sort_keys=True).encode()).hexdigest()


def byte_lengths(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """The number of UTF-8 bytes of each token [V]; bits per byte is computed with it."""
    return np.array([len(tokenizer.id_to_bytes(i)) for i in range(tokenizer.vocab_size)], dtype=np.int64)
