"""What every tokenizer can do, and how one comes back from its file.

All are saved as a Hugging Face `tokenizer.json`, so that other programs read them too.
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
        """The id put after each document, where the vocabulary has one."""

    def encode(self, text: str) -> Ids:
        """Plain text to ids. Text that looks like a special token is still plain text."""

    def encode_batch(self, texts: Iterable[str]) -> list[Ids]:
        """Each text by itself."""

    def decode(self, ids: Iterable[int]) -> str:
        """Bytes that are no UTF-8 become '�'. An id that the vocabulary has no place for is refused."""

    def id_to_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes that this id adds to a text: often less than a character, nothing for a special token."""

    def to_json(self) -> dict[str, Any]:
        """The content of `tokenizer.json`."""


def encode_with_end_of_text(tokenizer: Tokenizer, text: str, mark: str = END_OF_TEXT) -> Ids:
    """For texts whose marks are meant: each `mark` in them becomes the end-of-text token."""
    end = tokenizer.end_of_text
    if end is None:
        raise UserError("this tokenizer has no end-of-text token", "make one that has: --tokenizer.end_of_text true")
    first, *others = tokenizer.encode_batch(text.split(mark))
    return np.concatenate([first, *(part for ids in others for part in (np.array([end], dtype=np.uint32), ids))])


def serialize_tokenizer(tokenizer: Tokenizer) -> bytes:
    return fast_json.dumps(tokenizer.to_json(), indent=True)


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    write_atomic(path, serialize_tokenizer(tokenizer))


def load_tokenizer(path: Path) -> Tokenizer:
    return parse_tokenizer(read_json(path, "the tokenizer"), f"'{path}'")


def parse_tokenizer(content: dict[str, Any], name: str) -> Tokenizer:
    known: dict[str, Callable[[dict[str, Any]], Tokenizer]] = {
        "WordLevel": CharTokenizer.from_json,
        "BPE": HFTokenizer.from_json,
        "Unigram": HFTokenizer.from_json,
        "WordPiece": HFTokenizer.from_json,
    }
    try:
        return known[content["model"]["type"]](content)
    except Exception as error:  # the library raises bare Exceptions for files it cannot read
        raise UserError(
            f"{name} is not a tokenizer that fledge knows ({error})", "make one with 'fledge tokenizer train'"
        ) from None


def fingerprint(tokenizer: Tokenizer) -> str:
    """Two tokenizers with this in common give the same ids."""
    return hashlib.sha256(json.dumps(tokenizer.to_json(), sort_keys=True).encode()).hexdigest()


def byte_lengths(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """How many bytes of text each id stands for: what bits per byte are counted with."""
    return np.array([len(tokenizer.id_to_bytes(i)) for i in range(tokenizer.vocab_size)], dtype=np.int64)
