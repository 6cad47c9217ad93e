"""Decode a stream of ids into text without ever showing half a character.

A token may end inside a character. Its bytes are kept until the tokens that complete the character arrive.
"""

import codecs

from fledge.tokenizers.base import Tokenizer


class TextStreamer:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""
        return self._decoder.decode(self._tokenizer.id_to_bytes(token))

    def end(self) -> str:
        """Bytes that never became a character, as '�'."""
        return self._decoder.decode(b"", final=True)
