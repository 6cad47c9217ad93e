"""Filters: which documents are kept, by length, character set and duplication.

    slice ─ scan ─→ size, verdict and hash of each document ─ mark duplicates ─→ verdicts used by part.py

Filters need a scan of the whole text before encoding; it is made only if one of them is on. A document is tested as
a whole, however long it is; only its hash and its counts are kept in memory. When the text is read again for encoding,
document n of a slice has its verdict in row n.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fledge.core.errors import UserError
from fledge.datasets.config import DataConfig
from fledge.text.formats import read_slice
from fledge.text.inputs import Chunk, ReadOptions, Slice

KEPT, SHORT, LONG, OTHER_CHARSET, DUPLICATE = range(5)
REASONS = {SHORT: "too short", LONG: "too long", OTHER_CHARSET: "not in the charset", DUPLICATE: "duplicate"}

# One row per document: bytes as stored, verdict, 128 bits of its SHA-256.
SCAN_ROW = np.dtype([("size", "<u8"), ("verdict", "u1"), ("high", "<u8"), ("low", "<u8")])
ROW = struct.Struct("<QB16s")  # the same layout, for packing
DocumentScan = NDArray[Any]  # of SCAN_ROW


@dataclass(frozen=True)
class FilterRules:
    """The filter settings of [data]."""

    min_length: int | None = None
    max_length: int | None = None
    charset: str | None = None
    charset_share: float = 1.0
    dedup: bool = False

    @classmethod
    def of(cls, data: DataConfig) -> "FilterRules":
        return cls(data.min_length, data.max_length, data.charset, data.charset_share, data.dedup)

    @property
    def any(self) -> bool:
        """Whether any filter is on."""
        return self != FilterRules(charset_share=self.charset_share)

    def verdict(self, length: int, in_charset: int) -> int:
        """`length` is in characters; `in_charset` is how many of them the charset contains."""
        if self.min_length is not None and length < self.min_length:
            return SHORT
        if self.max_length is not None and length > self.max_length:
            return LONG
        return OTHER_CHARSET if self.charset and in_charset / length < self.charset_share else KEPT

    def count_in_charset(self, text: str) -> int:
        """Characters of the text that the charset contains. Every charset contains ASCII (config.py)."""
        if self.charset is None or text.isascii():
            return len(text)
        return len(text.encode(self.charset, "ignore").decode(self.charset))


def scan_slice(part: Slice, options: ReadOptions, rules: FilterRules) -> DocumentScan:
    """Size, verdict and hash of every document of a slice; duplicates are not marked yet."""
    rows = bytearray()
    length, in_charset, digest = 0, 0, hashlib.sha256()
    for chunk in read_slice(part, options):
        length += len(chunk.text)
        in_charset += rules.count_in_charset(chunk.text)
        digest.update(chunk.text.encode())
        if chunk.last:
            rows += ROW.pack(chunk.end, rules.verdict(length, in_charset), digest.digest()[:16])
            length, in_charset, digest = 0, 0, hashlib.sha256()
    return np.frombuffer(rows, dtype=SCAN_ROW)


def mark_duplicates(scans: Sequence[DocumentScan]) -> None:
    """Set the verdict DUPLICATE on every kept document that equals an earlier one."""
    high, low, verdict = (np.concatenate([rows[name] for rows in scans]) for name in ("high", "low", "verdict"))
    (kept,) = np.nonzero(verdict == KEPT)
    order = kept[np.lexsort((low[kept], high[kept]))]  # a stable sort: of equal documents the first comes first
    repeated = (high[order][1:] == high[order][:-1]) & (low[order][1:] == low[order][:-1])
    verdict[order[1:][repeated]] = DUPLICATE
    start = 0
    for rows in scans:
        rows["verdict"] = verdict[start : start + len(rows)]
        start += len(rows)


def drop_counts(scans: Iterable[DocumentScan]) -> dict[str, int]:
    """How many documents were dropped, by reason."""
    total = np.zeros(len(REASONS) + 1, dtype=int)
    for rows in scans:
        total += np.bincount(rows["verdict"], minlength=len(total))
    return {reason: int(total[verdict]) for verdict, reason in REASONS.items() if total[verdict]}


def kept_fraction(scans: Iterable[DocumentScan]) -> float:
    """The fraction of the text, in bytes, that is kept; 1 without a scan."""
    sizes = [(rows["size"].sum(), rows["size"][rows["verdict"] == KEPT].sum()) for rows in scans]
    return float(sum(kept for _, kept in sizes)) / max(1, sum(size for size, _ in sizes)) if sizes else 1.0


def kept_chunks(chunks: Iterable[Chunk], scan: DocumentScan) -> Iterator[Chunk]:
    """The chunks of kept documents, each with the size of its document filled in."""
    number = 0
    for chunk in chunks:
        if number == len(scan):
            raise UserError(f"'{chunk.document}' is new: the text changed while it was read", "run it again")
        if scan["verdict"][number] == KEPT:
            yield replace(chunk, size=int(scan["size"][number]))
        number += chunk.last
