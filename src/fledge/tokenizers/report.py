"""How well tokenizers suit a text: measured on the same text, side by side. Counts; does not train or load."""

import heapq
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fledge.core.formatting import printable, shorten
from fledge.core.progress import progress
from fledge.tokenizers.base import Tokenizer, byte_lengths

PASSAGE = 64  # tokens
LONGEST = 10
WORST = 3

ROWS = {
    "vocab_size": ("vocabulary", "{:,}"),
    "tokens": ("tokens", "{:,}"),
    "bytes_per_token": ("bytes per token", "{:.3f}"),
    "tokens_per_word": ("tokens per word", "{:.3f}"),
    "vocabulary_used": ("vocabulary used", "{:.1%}"),
}


class TokenizerCounts:
    """What one tokenizer makes of a text, document after document."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.lengths = byte_lengths(tokenizer)
        self.uses = np.zeros(tokenizer.vocab_size, dtype=np.int64)
        self.bytes = self.words = 0
        self.worst: list[tuple[float, str]] = []

    def add(self, text: str) -> None:
        ids = self.tokenizer.encode(text)
        self.bytes += len(text.encode("utf-8", "replace"))
        self.words += len(text.split())
        self.uses += np.bincount(ids, minlength=len(self.uses))
        self.worst = heapq.nsmallest(WORST, [*self.worst, *self.passages(ids)])

    def passages(self, ids: NDArray[np.uint32]) -> list[tuple[float, str]]:
        """The stretches of this document with the fewest bytes a token."""
        whole = ids[: len(ids) // PASSAGE * PASSAGE].reshape(-1, PASSAGE)
        density = self.lengths[whole].sum(axis=1) / PASSAGE
        order = np.argsort(density, kind="stable")[:WORST]
        return [(float(density[i]), self.tokenizer.decode(whole[i].tolist())) for i in order]

    def result(self) -> dict[str, Any]:
        tokens, used = int(self.uses.sum()), np.flatnonzero(self.uses)
        longest = sorted(used.tolist(), key=lambda i: (-int(self.lengths[i]), i))[:LONGEST]
        return {
            "vocab_size": self.tokenizer.vocab_size,
            "bytes": self.bytes,
            "words": self.words,
            "tokens": tokens,
            "bytes_per_token": self.bytes / max(tokens, 1),
            "tokens_per_word": tokens / max(self.words, 1),
            "vocabulary_used": len(used) / self.tokenizer.vocab_size,
            "longest_tokens": [self.tokenizer.decode([i]) for i in longest],
            "worst_passages": [{"bytes_per_token": density, "text": text} for density, text in self.worst],
        }


def compare_tokenizers(candidates: dict[str, Tokenizer], texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    tallies = {name: TokenizerCounts(tokenizer) for name, tokenizer in candidates.items()}
    for text in progress(texts, "encoding"):
        for tally in tallies.values():
            tally.add(text)
    return {name: tally.result() for name, tally in tallies.items()}


def comparison_table(found: dict[str, dict[str, Any]], note: str | None) -> str:
    width = max(14, *(len(name) + 2 for name in found))
    lines = [" " * 18 + "".join(name.rjust(width) for name in found)]
    for key, (label, form) in ROWS.items():
        lines.append(label.ljust(18) + "".join(form.format(result[key]).rjust(width) for result in found.values()))
    for name, result in found.items():
        longest = " ".join(quoted(token, 24) for token in result["longest_tokens"])
        lines += ["", f"longest tokens of {name}:", f"  {longest}", f"worst compressed by {name}:"]
        lines += [
            f"  {p['bytes_per_token']:.2f} bytes/token  {quoted(p['text'], 80)}" for p in result["worst_passages"]
        ]
    return "\n".join([*lines, *(["", note] if note else [])])


def quoted(text: str, width: int) -> str:
    """On one line, and no wider than there is room."""
    line = printable(text).replace("\n", "⏎").replace("\t", "⇥")
    return f"'{shorten(line, width)}'"
