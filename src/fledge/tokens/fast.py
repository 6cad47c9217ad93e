"""Byte-level BPE through the `tokenizers` library: made for speed, and for any `tokenizer.json` of that kind.

Text is bytes; frequent neighbours are merged, again and again, until the vocabulary is full. Every text can be
encoded, in any language, as a single byte is always a token. Reading how this works: bpe.py.
"""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from fledge.base.errors import UserError

BYTES = 256


def byte_signs() -> dict[str, int]:
    """Byte-level files spell each byte as one printable character: itself, or one from U+0100 on. Sign → byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(BYTES) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(BYTES + i): b for i, b in enumerate(others)}


class FastTokenizer:
    kind = "bpe"

    def __init__(self, library: Tokenizer, special: str | None) -> None:
        library.encode_special_tokens = True  # a text that spells "<|endoftext|>" is text, not an end
        self._library = library
        self.special = special

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, special: str | None = None, *, exact: bool = True
    ) -> "FastTokenizer":
        if vocab_size < BYTES + bool(special):
            raise UserError(
                f"a byte-level vocabulary cannot have {vocab_size} tokens",
                f"it holds every byte, so it starts at {BYTES + bool(special)}; 4096 suits a small model",
            )
        library = Tokenizer(models.BPE())
        # Cut before merging, by GPT-2's pattern, so that no token spans words: words, numbers, signs, spaces.
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        library.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            show_progress=False,
            initial_alphabet=sorted(byte_signs()),
            special_tokens=[special] if special else [],
        )
        library.train_from_iterator(texts, trainer)
        if exact and library.get_vocab_size() < vocab_size:
            raise UserError(
                f"the text allows only {library.get_vocab_size()} tokens, not {vocab_size}",
                "ask for fewer, or give more text",
            )
        return cls(library, special)

    @property
    def vocab_size(self) -> int:
        return self._library.get_vocab_size()

    @property
    def end_of_text(self) -> int | None:
        return self._library.token_to_id(self.special) if self.special else None

    def encode(self, text: str) -> NDArray[np.uint32]:
        return np.array(self._library.encode(text, add_special_tokens=False).ids, dtype=np.uint32)

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(map(self.bytes_of, ids)).decode("utf-8", "replace")

    def bytes_of(self, token: int) -> bytes:
        spelling = self._library.id_to_token(token)
        if spelling is None or spelling == self.special:
            return b""
        return bytes(SIGNS[sign] for sign in spelling)

    def to_json(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self._library.to_str())
        return content

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "FastTokenizer":
        special = next((token["content"] for token in content["added_tokens"] if token["special"]), None)
        return cls(Tokenizer.from_str(json.dumps(content)), special)


SIGNS = byte_signs()
