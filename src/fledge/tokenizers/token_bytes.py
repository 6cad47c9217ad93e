"""What each id of a `tokenizer.json` adds to a text, in bytes, read off the decoder that the file describes.

    byte-level      each sign is a byte (GPT-2, GPT-4, Llama 3)
    with spaces     '▁' is a space, '<0x0A>' a byte, and the first space of a text was put there (Llama 2, T5)
    anything else   what the library says of the id alone: near, but not exact where neighbours change each other

Does not encode, and knows nothing of merges.
"""

import re
from dataclasses import dataclass
from typing import Any

from fledge.tokenizers.byte_level import UNICODE_TO_BYTE, token_to_bytes
from tokenizers import Tokenizer

BYTE_NAME = re.compile(r"<0x([0-9A-F]{2})>")
HOLES = 1_000_000  # ids without a token, as some vocabularies have; more are a damaged file
UNDERSTOOD = {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}


@dataclass(frozen=True)
class TokenBytes:
    pieces: list[bytes]  # of each id; empty for special tokens, and where a vocabulary has a hole
    drops_space: bool = False  # a text begins with a space that nobody wrote
    exact: bool = True  # a text is the sum of its pieces


def vocab_size_of(library: Tokenizer) -> int:
    """One more than the largest id."""
    ids = library.get_vocab().values()
    size = 1 + max(ids, default=-1)
    if size > len(ids) + HOLES:
        raise ValueError(f"its ids run up to {size - 1}, but it holds {len(ids)} tokens")
    return size


def read_token_bytes(content: dict[str, Any], library: Tokenizer, size: int) -> TokenBytes:
    steps = _flat(content.get("decoder"))
    kinds = {step["type"] for step in steps}
    added = {token["id"]: "" if token["special"] else token["content"] for token in content["added_tokens"]}
    pieces = [b""] * size
    byte_level = "ByteLevel" in kinds
    understood = bool(kinds) and kinds <= UNDERSTOOD and all(map(_is_plain, steps))
    for token, i in library.get_vocab().items():
        if i in added:
            pieces[i] = added[i].encode()
        elif byte_level:
            pieces[i] = _byte_level(token)
        else:
            pieces[i] = _spaced(token, steps) if understood else library.decode([i]).encode()
    drops_space = understood and any(map(_drops_space, steps))
    return TokenBytes(pieces, drops_space, exact=understood or byte_level)


def _flat(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    return decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]


def _byte_level(token: str) -> bytes:
    return token_to_bytes(token) if UNICODE_TO_BYTE.keys() >= set(token) else token.encode()


def _is_plain(step: dict[str, Any]) -> bool:
    """A replacement of one string, and a strip of one space at the beginning, can be done token by token."""
    if step["type"] == "Replace":
        return "String" in step["pattern"]
    return step["type"] != "Strip" or (step["content"], step["start"], step["stop"]) == (" ", 1, 0)


def _drops_space(step: dict[str, Any]) -> bool:
    return step["type"] == "Strip" or (step["type"] == "Metaspace" and step["prepend_scheme"] != "never")


def _spaced(token: str, steps: list[dict[str, Any]]) -> bytes:
    for step in steps:
        if step["type"] == "ByteFallback" and (byte := BYTE_NAME.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        if step["type"] == "Replace":
            token = token.replace(step["pattern"]["String"], step["content"])
        elif step["type"] == "Metaspace":
            token = token.replace(step["replacement"], " ")
    return token.encode()
