"""Ids → text as it comes, never half a character.

A token may end in the middle of a character; its bytes wait here until the rest arrives.
"""

import codecs

from fledge.tokenizers.base import Tokenizer


class TextStreamer:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int) -> str:
        """The text that this token completes; empty while a character is still open."""
        return self._decoder.decode(self._tokenizer.id_to_bytes(token))

    def end(self) -> str:
        """What never became a character is shown as '�', as any reader of the bytes would show it."""
        return self._decoder.decode(b"", final=True)
