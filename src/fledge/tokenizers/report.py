"""Measure how well tokenizers compress a text, side by side."""

import heapq
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fledge.core.formatting import printable, shorten
from fledge.core.progress import progress
from fledge.tokenizers.base import Ids, Tokenizer, byte_lengths

PASSAGE_LENGTH = 64  # tokens
LONGEST_TOKENS = 10
WORST_PASSAGES = 3

ROWS = {
    "vocab_size": ("vocabulary", "{:,}"),
    "tokens": ("tokens", "{:,}"),
    "bytes_per_token": ("bytes per token", "{:.3f}"),
    "tokens_per_word": ("tokens per word", "{:.3f}"),
    "vocabulary_used": ("vocabulary used", "{:.1%}"),
}


class TokenizerCounts:
    """Accumulates, document by document, what one tokenizer makes of a text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.lengths = byte_lengths(tokenizer)
        self.token_counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
        self.bytes = self.words = 0
        self.worst: list[tuple[float, str]] = []

    def add(self, text: str) -> Ids:
        """Count the tokens of a document; returns them."""
        ids = self.tokenizer.encode(text)
        self.bytes += len(text.encode("utf-8", "replace"))
        self.words += len(text.split())
        self.token_counts += np.bincount(ids, minlength=len(self.token_counts))
        self.worst = heapq.nsmallest(WORST_PASSAGES, [*self.worst, *self.worst_passages(ids)])
        return ids

    def worst_passages(self, ids: NDArray[np.uint32]) -> list[tuple[float, str]]:
        """The passages of this document with the fewest bytes per token."""
        passages = ids[: len(ids) // PASSAGE_LENGTH * PASSAGE_LENGTH].reshape(-1, PASSAGE_LENGTH)
        bytes_per_token = self.lengths[passages].sum(axis=1) / PASSAGE_LENGTH
        order = np.argsort(bytes_per_token, kind="stable")[:WORST_PASSAGES]
        return [(float(bytes_per_token[i]), self.tokenizer.decode(passages[i].tolist())) for i in order]

    def result(self) -> dict[str, Any]:
        tokens, used = int(self.token_counts.sum()), np.flatnonzero(self.token_counts)
        longest = sorted(used.tolist(), key=lambda i: (-int(self.lengths[i]), i))[:LONGEST_TOKENS]
        return {
            "vocab_size": self.tokenizer.vocab_size,
            "bytes": self.bytes,
            "words": self.words,
            "tokens": tokens,
            "bytes_per_token": self.bytes / max(tokens, 1),
            "tokens_per_word": tokens / max(self.words, 1),
            "vocabulary_used": len(used) / self.tokenizer.vocab_size,
            "longest_tokens": [self.tokenizer.decode([i]) for i in longest],
            "worst_passages": [{"bytes_per_token": rate, "text": text} for rate, text in self.worst],
        }


def compare_tokenizers(tokenizers: dict[str, Tokenizer], texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    counts = {name: TokenizerCounts(tokenizer) for name, tokenizer in tokenizers.items()}
    for text in progress(texts, "encoding"):
        for each in counts.values():
            each.add(text)
    return {name: each.result() for name, each in counts.items()}


def comparison_table(results: dict[str, dict[str, Any]], note: str | None) -> str:
    """The results as text, one column per tokenizer."""
    width = max(14, *(len(name) + 2 for name in results))
    lines = [" " * 18 + "".join(name.rjust(width) for name in results)]
    for key, (label, form) in ROWS.items():
        lines.append(label.ljust(18) + "".join(form.format(result[key]).rjust(width) for result in results.values()))
    for name, result in results.items():
        longest = " ".join(quote_on_one_line(token, 24) for token in result["longest_tokens"])
        lines += ["", f"longest tokens of {name}:", f"  {longest}", f"worst compressed by {name}:"]
        lines += [
            f"  {passage['bytes_per_token']:.2f} bytes/token  {quote_on_one_line(passage['text'], 80)}"
            for passage in result["worst_passages"]
        ]
    return "\n".join([*lines, *(["", note] if note else [])])


def quote_on_one_line(text: str, width: int) -> str:
    """The text in quotes, shortened to `width`, with newlines and tabs shown as symbols."""
    line = printable(text).replace("\n", "⏎").replace("\t", "⇥")
    return f"'{shorten(line, width)}'"
