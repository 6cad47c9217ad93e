"""Find any sequence of tokens in the training split, in a suffix array over its shards.

    CACHE/suffix-arrays/HASH/index.json       written last: what was indexed, and the SHA-256 of every file
    CACHE/suffix-arrays/HASH/00000.positions  uint32 each, little-endian: where the suffixes of a piece begin, in order

A suffix array holds the positions of all tokens, sorted by the text that follows them. So all occurrences of a sequence
stand side by side, and a binary search finds them. HASH is the dataset's: another dataset has another array. The tokens
themselves stay in the shards: two bytes each there and four here (a vocabulary above 65,536: four and four).

The split is indexed in pieces, so that building fits in memory. A piece reads OVERLAP tokens beyond its end: a match
across two pieces is found, if it has at most OVERLAP tokens behind the border.

A match never spans two documents: the text of each suffix ends where its document ends. Datasets of other programs do
not mark where documents begin; there, one begins after each end-of-text token.

How the array is made stands in build_suffix_array.py. Everything is memory-mapped: opening costs no memory.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fledge.core.checksums import checked_content
from fledge.core.files import cache_dir, sha256
from fledge.datasets.shards import Dataset, Split

FORMAT = 1
DESCRIPTION = "index.json"
POSITION = np.dtype("<u4")
OVERLAP = 4096  # tokens that a piece reads beyond its end
BLOCK = 16  # tokens compared at once
QUERY_END, SUFFIX_END = -2, -1  # below every id: what is shorter sorts first
QUERY_ABOVE = 1 << 40  # above every id: all suffixes that begin with the query sort before it
Ints = NDArray[np.int64]


class DamagedIndex(ValueError):
    """A file of the index does not match its description."""


@dataclass(frozen=True)
class Piece:
    """Suffixes that begin in `begin` … `stop` - 1; none reaches beyond `end`."""

    begin: int
    stop: int
    end: int
    positions: NDArray[np.uint32]  # relative to `begin`


@dataclass(frozen=True)
class Found:
    """Where a sequence of tokens occurs. `positions`: at most as many as were asked for."""

    count: int
    positions: Ints


@dataclass(frozen=True)
class SuffixArray:
    split: Split
    starts: Ints  # the first token of each document
    pieces: Sequence[Piece]

    def longest_matches(self, ids: Sequence[int]) -> Ints:
        """For each position, how many tokens from there on occur in the training data in this order: [len(ids)]."""
        longest = np.zeros(len(ids), dtype=np.int64)
        if not len(ids):
            return longest
        query = _Query(self, ids, np.arange(len(ids)), QUERY_END)
        for piece in self.pieces:
            place = query.insertion_points(piece)
            for near in (place - 1, place):  # what shares most with the query stands beside its place
                inside = np.flatnonzero((near >= 0) & (near < len(piece.positions)))
                common, _ = query.compare(inside, piece, near[inside])
                longest[inside] = np.maximum(longest[inside], common)
        return longest

    def find(self, ids: Sequence[int], limit: int = 100) -> Found:
        """All occurrences of the whole sequence. Of more than `limit`, evenly spaced ones are named."""
        bounds = self._bounds(ids)
        count = sum(last - first for _, first, last in bounds)
        chosen = np.arange(count) if count <= limit else np.arange(limit) * count // limit
        positions, before = [], 0
        for piece, first, last in bounds:
            here = chosen[(chosen >= before) & (chosen < before + last - first)] - before + first
            positions.append(piece.begin + piece.positions[here].astype(np.int64))
            before += last - first
        return Found(count, np.sort(np.concatenate(positions)) if positions else np.zeros(0, dtype=np.int64))

    def count(self, ids: Sequence[int]) -> int:
        """How often the whole sequence occurs."""
        return sum(last - first for _, first, last in self._bounds(ids))

    def _bounds(self, ids: Sequence[int]) -> list[tuple[Piece, int, int]]:
        """The rows of each piece that begin with the sequence: first, and one after the last."""
        below, above = (_Query(self, ids, np.zeros(1, dtype=np.int64), end) for end in (QUERY_END, QUERY_ABOVE))
        return [
            (piece, int(below.insertion_points(piece)[0]), int(above.insertion_points(piece)[0]))
            for piece in self.pieces
        ]

    def document_of(self, position: int) -> tuple[int, int, int]:
        """The document with this token: its number, its first token, and the first token after it."""
        number = int(np.searchsorted(self.starts, position, side="right")) - 1
        return number, int(self.starts[number]), int(self._ends[number])

    def document_ends(self, positions: Ints) -> Ints:
        """Where the documents of these tokens end."""
        return self._ends[np.searchsorted(self.starts, positions, side="right") - 1]

    @cached_property
    def _ends(self) -> Ints:
        return np.append(self.starts[1:], len(self.split))


class _Query:
    """Suffixes of one sequence, beginning at `starts` [K], compared with suffixes of the training data."""

    def __init__(self, array: SuffixArray, ids: Sequence[int], starts: Ints, end: int) -> None:
        self.array, self.starts = array, starts
        self.ids = np.append(np.asarray(ids, dtype=np.int64), end)

    def insertion_points(self, piece: Piece) -> Ints:
        """How many suffixes of the piece sort before each of the query's: [K], by binary search for all at once."""
        low = np.zeros(len(self.starts), dtype=np.int64)
        high = np.full_like(low, len(piece.positions))
        while len(open := np.flatnonzero(low < high)):
            middle = (low[open] + high[open]) // 2
            _, greater = self.compare(open, piece, middle)
            low[open[greater]] = middle[greater] + 1
            high[open[~greater]] = middle[~greater]
        return low

    def compare(self, which: Ints, piece: Piece, rows: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """Query suffixes `which` [K] and rows of the piece [K]: how many tokens agree, and is the query greater?"""
        split, last = self.array.split, len(self.ids) - 1
        begins = self.starts[which]
        positions = piece.begin + piece.positions[rows].astype(np.int64)
        limits = np.minimum(self.array.document_ends(positions), piece.end)
        common, greater = np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows), dtype=np.bool_)
        equal, depth = np.arange(len(rows)), 0
        while len(equal):
            offsets = depth + np.arange(BLOCK)
            mine = self.ids[np.minimum(begins[equal, None] + offsets, last)]
            places = positions[equal, None] + offsets
            theirs = split.at(np.minimum(places, len(split) - 1))
            theirs[places >= limits[equal, None]] = SUFFIX_END
            differ = mine != theirs
            first, differs = differ.argmax(1), differ.any(1)
            done = equal[differs]
            row = np.flatnonzero(differs)
            common[done] = depth + first[row]
            greater[done] = mine[row, first[row]] > theirs[row, first[row]]
            equal, depth = equal[~differs], depth + BLOCK
        return common, greater


def maximal_spans(longest: Ints, minimum: int = 1) -> list[tuple[int, int]]:
    """The matches that no other one contains, as (first token, one after the last); see `longest_matches`."""
    ends = np.arange(len(longest)) + longest
    before = np.concatenate(([0], ends[:-1]))
    rows = np.flatnonzero((longest >= max(1, minimum)) & (ends > before))
    return [(int(row), int(ends[row])) for row in rows]


def covered(spans: Sequence[tuple[int, int]], length: int) -> NDArray[np.bool_]:
    """Which tokens of a text of this length are in one of the spans."""
    inside = np.zeros(length, dtype=np.bool_)
    for first, end in spans:
        inside[first:end] = True
    return inside


def document_starts(dataset: Dataset, split: Split) -> Ints:
    """The first token of each document; the first document begins at 0."""
    starts = split.document_starts()
    end = dataset.tokenizer.end_of_text
    if not len(starts) and end is not None:  # a dataset of another program
        step = 1 << 20
        chunks = range(0, len(split), step)
        ends = [np.flatnonzero(split.read(at, min(step, len(split) - at)) == end) + at + 1 for at in chunks]
        starts = np.concatenate(ends)
    return np.unique(np.concatenate(([0], starts[starts < len(split)]))).astype(np.int64)


def index_folder(dataset: Dataset) -> Path:
    """Where the array of this dataset is kept."""
    return cache_dir() / "suffix-arrays" / dataset.fingerprint[:16]


def open_suffix_array(dataset: Dataset) -> SuffixArray | None:
    """The array of the training split; None: not built yet. DamagedIndex: a file is not what was written."""
    folder = index_folder(dataset)
    if not (folder / DESCRIPTION).exists():
        return None
    split = dataset.split("train")
    try:
        content = checked_content((folder / DESCRIPTION).read_bytes(), indent=1)
        if (content["format"], content["dataset"], content["tokens"]) != (FORMAT, dataset.fingerprint, len(split)):
            raise DamagedIndex(f"'{folder}' is of another dataset or version")
        pieces = [_open_piece(folder, number, piece, len(split)) for number, piece in enumerate(content["pieces"])]
    except (ValueError, KeyError, TypeError, OSError, json.JSONDecodeError) as error:
        raise DamagedIndex(f"the index '{folder}' is damaged ({error})") from None
    borders = [0, *(piece.stop for piece in pieces)]
    if [piece.begin for piece in pieces] != borders[:-1] or borders[-1] != len(split):
        raise DamagedIndex(f"the index '{folder}' is damaged (its pieces do not fit together)")
    return SuffixArray(split, document_starts(dataset, split), pieces)


def piece_name(number: int) -> str:
    return f"{number:05d}.positions"


def _open_piece(folder: Path, number: int, about: dict[str, Any], tokens: int) -> Piece:
    """Check everything that a look-up relies on: bounds, length, hash, and that every position is inside."""
    begin, stop, end, path = int(about["begin"]), int(about["stop"]), int(about["end"]), folder / piece_name(number)
    if not 0 <= begin < stop <= end <= tokens or path.stat().st_size != POSITION.itemsize * (stop - begin):
        raise DamagedIndex(f"'{path.name}' has the wrong length")
    if sha256(path) != about["sha256"]:
        raise DamagedIndex(f"'{path.name}' has changed")
    positions = np.memmap(path, dtype=POSITION, mode="r")
    if int(positions.max()) >= stop - begin:
        raise DamagedIndex(f"'{path.name}' points outside the text")
    return Piece(begin, stop, end, positions)
