"""A token as OpenAI's answers show it, and the log-probabilities of a text in their two formats.

Part of a character is written as bytes ("bytes:\\\\xe2\\\\x80"), a special token by its name, so that no two tokens of
an answer look alike where they differ.
"""

import codecs
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from fledge.inference.request import TokenLogprob
from fledge.tokenizers.base import Tokenizer

IMPOSSIBLE = -9999.0  # JSON has no -inf


class TokenText:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = {each["id"]: each["content"] for each in tokenizer.to_json()["added_tokens"] if each["special"]}
        self.text = lru_cache(1 << 16)(self._text)

    def bytes(self, token: int) -> bytes:
        return self._tokenizer.id_to_bytes(token)

    def _text(self, token: int) -> str:
        if token in self._special:
            return self._special[token]
        content = self.bytes(token)
        try:
            return content.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)

    def top(self, found: TokenLogprob) -> dict[str, float]:
        """The alternatives and the token itself, as completions have them."""
        pairs = [*found.top, (found.token, found.logprob)]
        return {self.text(token): finite(logprob) for token, logprob in reversed(pairs)}

    def chat_logprob(self, found: TokenLogprob) -> dict[str, Any]:
        top = [self._chat_token(token, logprob) for token, logprob in found.top]
        return {**self._chat_token(found.token, found.logprob), "top_logprobs": top}

    def _chat_token(self, token: int, logprob: float) -> dict[str, Any]:
        content = self.bytes(token)
        return {"token": self.text(token), "logprob": finite(logprob), "bytes": list(content) if content else None}


class CompletionLogprobs:
    """`logprobs` of one choice of /v1/completions, also piece by piece.

    text_offset: where a token begins in prompt and answer together, in characters.
    """

    def __init__(self, texts: TokenText, prompt: Sequence[int]) -> None:
        self._texts = texts
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0
        self._prompt = prompt
        self._prompt_offsets = [self._advance(token) for token in prompt]

    def of_prompt(self, logprobs: Sequence[TokenLogprob]) -> dict[str, list[Any]]:
        """The first token has none, as nothing comes before it."""
        return {
            "tokens": [self._texts.text(token) for token in self._prompt],
            "token_logprobs": [None, *(finite(each.logprob) for each in logprobs)],
            "top_logprobs": [None, *map(self._texts.top, logprobs)],
            "text_offset": self._prompt_offsets,
        }

    def of_answer(self, logprobs: Sequence[TokenLogprob]) -> dict[str, list[Any]]:
        return {
            "tokens": [self._texts.text(each.token) for each in logprobs],
            "token_logprobs": [finite(each.logprob) for each in logprobs],
            "top_logprobs": [self._texts.top(each) for each in logprobs],
            "text_offset": [self._advance(each.token) for each in logprobs],
        }

    def _advance(self, token: int) -> int:
        begin = self._offset
        self._offset += len(self._decoder.decode(self._texts.bytes(token)))
        return begin


def joined(parts: Iterable[dict[str, list[Any]]]) -> dict[str, list[Any]]:
    """One after another."""
    first, *others = parts
    return {key: sum((part[key] for part in others), values) for key, values in first.items()}


def finite(logprob: float) -> float:
    return max(logprob, IMPOSSIBLE)
