"""The bytes that each id of a `tokenizer.json` stands for, derived from the decoder in the file.

byte-level      each character is a byte (GPT-2, GPT-4, Llama 3)
SentencePiece   '▁' is a space, '<0x0A>' a byte, and the text starts with an added space (Llama 2, T5)
other           what the library decodes from the id alone: inexact where a token depends on its neighbors
"""

import re
from dataclasses import dataclass
from typing import Any

from fledge.tokenizers.byte_level import token_to_bytes
from tokenizers import Tokenizer

BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
MAX_GAPS = 1_000_000  # ids without a token: some vocabularies have a few, a damaged file has very many
SENTENCEPIECE_STEPS = {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}


@dataclass(frozen=True)
class TokenBytes:
    bytes_by_id: list[bytes]  # empty for special tokens and for ids without a token
    strips_space: bool = False  # decoding removes the space that encoding put before the text
    is_exact: bool = True  # a decoded text is the concatenation of the bytes of its tokens


def vocab_size_of(library: Tokenizer) -> int:
    """The largest id plus one."""
    ids = library.get_vocab().values()
    size = 1 + max(ids, default=-1)
    if size > len(ids) + MAX_GAPS:
        raise ValueError(f"its ids run up to {size - 1}, but it holds only {len(ids)} tokens")
    return size


def read_token_bytes(content: dict[str, Any], library: Tokenizer, size: int) -> TokenBytes:
    steps = _decoder_steps(content.get("decoder"))
    kinds = {step["type"] for step in steps}
    added = {token["id"]: "" if token["special"] else token["content"] for token in content["added_tokens"]}
    bytes_by_id = [b""] * size
    is_byte_level = "ByteLevel" in kinds
    is_sentencepiece = bool(kinds) and kinds <= SENTENCEPIECE_STEPS and all(map(_works_per_token, steps))
    for token, i in library.get_vocab().items():
        if i in added:
            bytes_by_id[i] = added[i].encode()
        elif is_byte_level:
            bytes_by_id[i] = _byte_level_bytes(token)
        else:
            bytes_by_id[i] = _sentencepiece_bytes(token, steps) if is_sentencepiece else library.decode([i]).encode()
    strips_space = is_sentencepiece and any(map(_strips_space, steps))
    return TokenBytes(bytes_by_id, strips_space, is_exact=is_sentencepiece or is_byte_level)


def _decoder_steps(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    return decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]


def _byte_level_bytes(token: str) -> bytes:
    try:
        return token_to_bytes(token)
    except KeyError:
        return token.encode()


def _works_per_token(step: dict[str, Any]) -> bool:
    """Replacing a fixed string, and stripping one space at the beginning, can be done token by token."""
    if step["type"] == "Replace":
        return "String" in step["pattern"]
    return step["type"] != "Strip" or (step["content"], step["start"], step["stop"]) == (" ", 1, 0)


def _strips_space(step: dict[str, Any]) -> bool:
    return step["type"] == "Strip" or (step["type"] == "Metaspace" and step["prepend_scheme"] != "never")


def _sentencepiece_bytes(token: str, steps: list[dict[str, Any]]) -> bytes:
    for step in steps:
        if step["type"] == "ByteFallback" and (byte := BYTE_TOKEN.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        if step["type"] == "Replace":
            token = token.replace(step["pattern"]["String"], step["content"])
        elif step["type"] == "Metaspace":
            token = token.replace(step["replacement"], " ")
    return token.encode()
