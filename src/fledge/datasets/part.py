"""One part of a text → its shards: the pure function that all engines run, here or elsewhere.

    slices → chunks ─ verdicts ─ share ─→ stretches of train, val, test → ids → a shard of each split → record

The same part gives the same bytes on every machine. The record is written last, so where it is, the shards are too.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from fledge.core import fast_json
from fledge.datasets import filters
from fledge.datasets.shards import SPLITS, ShardInfo, ShardWriter
from fledge.datasets.splits import Span, SplitRule, split_chunks
from fledge.datasets.storage import STAGING, open_storage
from fledge.text.formats import ReadCounts, ReadOptions, Slice, read_slice
from fledge.text.inputs import CHUNK_SIZE
from fledge.text.sources import sample_chunks
from fledge.tokenizers.base import Tokenizer, parse_tokenizer


@dataclass(frozen=True)
class PartSpec:
    """What all parts have in common. `tokenizer` is the content of its file."""

    out: str
    tokenizer: bytes
    options: ReadOptions
    division: SplitRule


@dataclass(frozen=True, eq=False)
class Part:
    """`seen` has the verdicts for each slice, where documents were judged. `key` changes with all that matters."""

    number: int
    key: str
    slices: tuple[Slice, ...]
    seen: tuple[filters.Seen, ...] | None = None

    @property
    def size(self) -> int:
        return sum(each.size for each in self.slices)


@dataclass(frozen=True)
class PartRecord:
    """What came of a part."""

    key: str
    shards: dict[str, ShardInfo] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)  # of the text, in bytes
    counts: ReadCounts = field(default_factory=ReadCounts)

    def to_file(self) -> bytes:
        return with_checksum(json.dumps(asdict(self)).encode())

    @classmethod
    def from_file(cls, content: bytes, key: str) -> "PartRecord | None":
        """None where it is damaged, or has another key."""
        value: dict[str, Any] = json.loads(checked_content(content) or b"{}")
        if value.get("key") != key:
            return None
        shards = {split: ShardInfo(**info) for split, info in value["shards"].items()}
        return cls(key, shards, value["sizes"], ReadCounts(**value["counts"]))


def with_checksum(content: bytes) -> bytes:
    """With its own hash before it: what comes back from a disk may be anything."""
    return hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def checked_content(content: bytes | None) -> bytes | None:
    seal, _, inner = (content or b"").partition(b"\n")
    return inner if seal == hashlib.sha256(inner).hexdigest().encode() else None


def record_name(number: int) -> str:
    return f"{STAGING}/{number:05d}.json"


def make_part(job: PartSpec, part: Part) -> PartRecord:
    tokenizer, place, counts = open_tokenizer(job.tokenizer), open_storage(job.out), ReadCounts()
    with place.staging() as folder:
        writers = {split: SplitWriter(folder / split, tokenizer) for split in SPLITS}
        for stretch in spans(job, part, counts):
            writers[stretch.split].add(stretch)
        done = {split: writer.close(f"{split}/{part.number:05d}.tokens") for split, writer in writers.items()}
        shards = {split: info for split, info in done.items() if info.tokens}
        for split, info in shards.items():
            place.adopt(folder / split, info.file)
    record = PartRecord(part.key, shards, {split: writer.bytes for split, writer in writers.items()}, counts)
    place.write(record_name(part.number), record.to_file())
    return record


@lru_cache(maxsize=1)
def open_tokenizer(content: bytes) -> Tokenizer:
    """Once for all parts that a process makes: opening a large vocabulary takes a second."""
    return parse_tokenizer(fast_json.loads(content), "the dataset's tokenizer")


def spans(job: PartSpec, part: Part, counts: ReadCounts) -> Iterator[Span]:
    for number, each in enumerate(part.slices):
        chunks = read_slice(each, job.options, counts)
        if part.seen is not None:
            chunks = filters.kept_chunks(chunks, part.seen[number])
        yield from split_chunks(sample_chunks(chunks, each.fraction), job.division, partial(opening, each, job.options))


def opening(part: Slice, options: ReadOptions) -> str:
    """The first chunk of the document in whose middle a slice begins: only a plain text is cut so."""
    return next(read_slice(Slice(part.source, 0, CHUNK_SIZE), options)).text


class SplitWriter:
    """One split's shard of a part, and how many bytes of text went into it."""

    def __init__(self, path: Path, tokenizer: Tokenizer) -> None:
        self.shard = ShardWriter(path, tokenizer.vocab_size)
        self.tokenizer = tokenizer
        self.end = None if tokenizer.end_of_text is None else np.array([tokenizer.end_of_text], dtype=np.uint32)
        self.bytes = 0

    def add(self, stretch: Span) -> None:
        if stretch.begins:
            self.shard.begin_document()
        self.shard.add(self.tokenizer.encode(stretch.text))
        if stretch.ends and self.end is not None:
            self.shard.add(self.end)
        self.bytes += len(stretch.text) if stretch.text.isascii() else len(stretch.text.encode())

    def close(self, name: str) -> ShardInfo:
        return self.shard.close(name)
