"""The units of a split that a bootstrap draws from: documents, and blocks of long documents.

A document with more than a hundredth of the split's bytes is cut into blocks of equal length. So there are enough units
even where the split is a single document. Bytes, not tokens: two tokenizers cut the same text at the same places.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fledge.datasets.shards import Split

MIN_UNITS = 100
CHUNK = 1 << 20  # tokens read at a time
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class TextUnits:
    starts: Ints  # [U] the first token of each unit
    documents: Ints  # [U] to which document it belongs
    bytes: Ints  # [D] of each document: equal where two datasets hold the same text

    def of(self, positions: Ints) -> Ints:
        """The unit of each token."""
        return np.maximum(np.searchsorted(self.starts, positions, side="right") - 1, 0)


def text_units(split: Split, byte_lengths: Ints) -> TextUnits:
    """byte_lengths [V]: the bytes of each token."""
    starts = np.union1d(split.document_starts(), [0])
    ends = np.append(starts[1:], len(split))
    before = _bytes_before(split, byte_lengths, np.append(starts, len(split)))
    lengths = np.diff(before)
    limit = max(1, -(-int(lengths.sum()) // MIN_UNITS))
    blocks = np.maximum(1, -(-lengths // limit))
    inner = [
        _first_tokens(
            split, byte_lengths, int(starts[i]), int(ends[i]), lengths[i] * np.arange(1, blocks[i]) // blocks[i]
        )
        for i in np.flatnonzero(blocks > 1)
    ]
    every = np.union1d(starts, np.concatenate(inner)) if inner else starts
    return TextUnits(every, np.searchsorted(starts, every, side="right") - 1, lengths)


def _bytes_before(split: Split, byte_lengths: Ints, positions: Ints) -> Ints:
    """The bytes of all tokens before each of these positions, which ascend."""
    before, total = np.zeros(len(positions), dtype=np.int64), 0
    for begin in range(0, len(split), CHUNK):
        ids = split.read(begin, min(CHUNK, len(split) - begin))
        sums = total + np.concatenate(([0], np.cumsum(byte_lengths[ids])))
        inside = slice(*np.searchsorted(positions, (begin, begin + len(ids) + 1)))
        before[inside] = sums[positions[inside] - begin]
        total = int(sums[-1])
    return before


def _first_tokens(split: Split, byte_lengths: Ints, begin: int, end: int, offsets: Ints) -> Ints:
    """The first token of a document that begins at each of these byte offsets, or behind it."""
    found, total = [], 0
    for first in range(begin, end, CHUNK):
        sums = total + np.cumsum(byte_lengths[split.read(first, min(CHUNK, end - first))])
        here = offsets[(offsets > total) & (offsets <= sums[-1])]
        found.append(first + 1 + np.searchsorted(sums, here))
        total = int(sums[-1])
    positions = np.concatenate(found)
    return positions[positions < end]
