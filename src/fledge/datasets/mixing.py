"""data.shares: of each source as much as gives it its share of the training tokens. No text is repeated.

    tokens of each source  →  the largest mix that has the shares: one source is in it whole, of the others a part
    shards of a source     →  pieces, spread evenly over it  →  new shards

A piece is a document, or PIECE tokens of a longer one, which is then a document of its own. So the shares hold to
within a piece, whatever the number of workers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fledge.core.errors import UserError
from fledge.datasets.part import Part, PartRecord
from fledge.datasets.plan import Advance
from fledge.datasets.shards import ShardInfo, ShardWriter, read_shard
from fledge.datasets.storage import Storage
from fledge.tokenizers.base import Tokenizer, byte_lengths

PIECE = 8192  # tokens
TRAIN = "train"
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Pieces:
    """The pieces of a shard: where they begin, and which of them begin a document."""

    starts: Ints  # [n]
    lengths: Ints  # [n]
    opens: Bools  # [n]


def mix(
    storage: Storage,
    tokenizer: Tokenizer,
    parts: Sequence[Part],
    records: Sequence[PartRecord],
    shares: Sequence[float],
    names: Sequence[str],
    advance: Advance,
) -> tuple[list[PartRecord], list[dict[str, Any]]]:
    """The records with training shards that have the shares, and what was taken of each source."""
    both = zip(parts, records, strict=True)
    numbers = [part.slices[0].source.source if TRAIN in record.shards else -1 for part, record in both]
    available = [
        sum(record.shards[TRAIN].tokens for number, record in zip(numbers, records, strict=True) if number == source)
        for source in range(len(shares))
    ]
    wanted = amounts(available, shares, names)
    bytes_of = byte_lengths(tokenizer)
    mixed, facts = list(records), []
    for source, name in enumerate(names):
        chosen = [row for row, number in enumerate(numbers) if number == source]
        taken = available[source]
        if wanted[source] < taken:
            own = [records[row] for row in chosen]
            thinned = Thinning(storage, tokenizer, bytes_of).take(own, wanted[source], advance)
            for row, record in zip(chosen, thinned, strict=True):
                mixed[row] = record
            taken = sum(mixed[row].shards[TRAIN].tokens for row in chosen)
        facts.append({"source": name, "share": shares[source], "tokens": taken, "of": available[source]})
    return mixed, facts


def amounts(available: Sequence[int], shares: Sequence[float], names: Sequence[str]) -> list[int]:
    """Tokens to take of each source: the most that have these shares."""
    for tokens, name in zip(available, names, strict=True):
        if not tokens:
            raise UserError(f"'{name}' has no text in the training split, so it can have no share", "give more text")
    total = min(tokens / share for tokens, share in zip(available, shares, strict=True))
    return [min(tokens, round(total * share)) for tokens, share in zip(available, shares, strict=True)]


def pieces_of(tokens: int, documents: Ints) -> Pieces:
    """documents: where they begin in the shard, whose first tokens may continue one of the shard before."""
    begins = np.unique(np.concatenate([[0], documents[documents < tokens]])).astype(np.int64)
    lengths = np.diff(begins, append=tokens)
    counts = -(-lengths // PIECE)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.repeat(begins, counts) + PIECE * within
    return Pieces(starts, np.diff(starts, append=tokens), np.isin(starts, documents))


class Thinning:
    """Takes a part of one source, shard by shard."""

    def __init__(self, storage: Storage, tokenizer: Tokenizer, bytes_of: Ints) -> None:
        self.storage, self.tokenizer, self.bytes_of = storage, tokenizer, bytes_of
        self.seen = self.kept = 0  # tokens so far
        self.open = False  # whether the last piece of the shard before was taken

    def take(self, records: Sequence[PartRecord], wanted: int, advance: Advance) -> Iterator[PartRecord]:
        """The records of all shards of the source, with `wanted` tokens in all."""
        available = sum(record.shards[TRAIN].tokens for record in records)
        for record in records:
            info = record.shards[TRAIN]
            with self.storage.temporary_folder() as folder:
                ids, documents = read_shard(self.storage.local_copy(info.file, folder), info, self.tokenizer.vocab_size)
                pieces = pieces_of(info.tokens, documents.astype(np.int64))
                taken = self._choose(pieces, wanted, available)
                new, size = self._write(folder / "mixed", ids, pieces, taken, info.file)
                self.storage.commit(folder / "mixed", new.file)
            advance(record.sizes[TRAIN])
            yield replace(record, shards={**record.shards, TRAIN: new}, sizes={**record.sizes, TRAIN: size})

    def _choose(self, pieces: Pieces, wanted: int, available: int) -> list[bool]:
        """Spread `wanted` of `available` tokens evenly: a piece is taken if its middle is due by then."""
        taken = []
        for length in pieces.lengths.tolist():
            self.seen += length
            taken.append((2 * self.kept + length) * available <= 2 * wanted * self.seen)
            self.kept += length * taken[-1]
        return taken

    def _write(
        self, path: Path, ids: NDArray[Any], pieces: Pieces, taken: list[bool], name: str
    ) -> tuple[ShardInfo, int]:
        """A shard of these pieces, and its bytes of text."""
        shard, size = ShardWriter(path, self.tokenizer.vocab_size), 0
        for start, length, opens, keep in zip(
            pieces.starts.tolist(), pieces.lengths.tolist(), pieces.opens.tolist(), taken, strict=True
        ):
            if keep:
                if opens or not self.open:
                    shard.begin_document()
                piece = np.asarray(ids[start : start + length])
                shard.add(piece)
                size += int(self.bytes_of[piece].sum())
            self.open = keep
        return shard.close(name.replace(".tokens", "-mixed.tokens")), size
