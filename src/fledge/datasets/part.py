"""Make one part of a dataset: the pure function that every executor runs, here or on another machine.

    slices → chunks → filters → sampling → spans of train, val, test → token ids → a shard per split → record

The same part gives the same bytes on every machine. The record is written last: if it exists, the shards exist too.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from fledge.core import fast_json
from fledge.core.checksums import checked_content, with_checksum
from fledge.datasets import filters
from fledge.datasets.shards import SPLITS, ShardInfo, ShardWriter
from fledge.datasets.splits import Span, SplitRule, split_chunks
from fledge.datasets.storage import STAGING, open_storage
from fledge.text.formats import read_slice
from fledge.text.inputs import CHUNK_SIZE, ReadCounts, ReadOptions, Slice
from fledge.text.sources import sample_chunks
from fledge.tokenizers.base import Tokenizer, parse_tokenizer


@dataclass(frozen=True)
class PartSpec:
    """What all parts of a dataset have in common. `tokenizer` is the content of its file."""

    out: str
    tokenizer: bytes
    options: ReadOptions
    split_rule: SplitRule
    ends: bool = True  # whether an end-of-text token stands after every document
    by_source: bool = False  # whether no part may hold text of two sources


@dataclass(frozen=True, eq=False)
class Part:
    """Slices that are encoded together. `scans`: the filters' verdicts for each slice. `key` changes with all input."""

    number: int
    key: str
    slices: tuple[Slice, ...]
    scans: tuple[filters.DocumentScan, ...] | None = None

    @property
    def size(self) -> int:
        return sum(each.size for each in self.slices)


@dataclass(frozen=True)
class PartRecord:
    """A finished part: its shards, bytes of text per split, and counts."""

    key: str
    shards: dict[str, ShardInfo] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)  # bytes of text
    counts: ReadCounts = field(default_factory=ReadCounts)

    def to_file(self) -> bytes:
        return with_checksum(asdict(self))

    @classmethod
    def from_file(cls, content: bytes, key: str) -> "PartRecord | None":
        """None if the file is damaged or has another key."""
        try:
            value = checked_content(content)
        except ValueError:
            return None
        if value.get("key") != key:
            return None
        shards = {split: ShardInfo(**info) for split, info in value["shards"].items()}
        return cls(key, shards, value["sizes"], ReadCounts(**value["counts"]))


def record_name(number: int) -> str:
    return f"{STAGING}/{number:05d}.json"


def make_part(spec: PartSpec, part: Part) -> PartRecord:
    """Encode a part; write its shards, then its record."""
    tokenizer, storage, counts = open_tokenizer(spec.tokenizer), open_storage(spec.out), ReadCounts()
    with storage.temporary_folder() as folder:
        writers = {split: SplitWriter(folder / split, tokenizer, ends=spec.ends) for split in SPLITS}
        for span in part_spans(spec, part, counts):
            writers[span.split].add(span)
        closed = {split: writer.close(f"{split}/{part.number:05d}.tokens") for split, writer in writers.items()}
        shards = {split: info for split, info in closed.items() if info.tokens or info.documents}
        for split, info in shards.items():
            storage.commit(folder / split, info.file)
    record = PartRecord(part.key, shards, {split: writer.bytes for split, writer in writers.items()}, counts)
    storage.write(record_name(part.number), record.to_file())
    return record


@lru_cache(maxsize=1)
def open_tokenizer(content: bytes) -> Tokenizer:
    """Parsed once per process: a large vocabulary takes a second."""
    return parse_tokenizer(fast_json.loads(content), "the dataset's tokenizer")


def part_spans(spec: PartSpec, part: Part, counts: ReadCounts) -> Iterator[Span]:
    for index, each in enumerate(part.slices):
        chunks = read_slice(each, spec.options, counts)
        if part.scans is not None:
            chunks = filters.kept_chunks(chunks, part.scans[index])
        chunks = sample_chunks(chunks, each)
        if split := each.source.split:
            yield from (Span(split, chunk.text, chunk.start == 0, chunk.last) for chunk in chunks)
            continue
        yield from split_chunks(chunks, spec.split_rule, partial(first_chunk, each, spec.options))


def first_chunk(part: Slice, options: ReadOptions) -> str:
    """The first chunk of the document in whose middle a slice begins; only plain text is sliced like that."""
    return next(read_slice(Slice(part.source, 0, CHUNK_SIZE), options)).text


class SplitWriter:
    """Encodes the spans of one split into its shard, and counts their bytes."""

    def __init__(self, path: Path, tokenizer: Tokenizer, *, ends: bool) -> None:
        self.shard = ShardWriter(path, tokenizer.vocab_size)
        self.tokenizer = tokenizer
        end = tokenizer.end_of_text if ends else None
        self.end = None if end is None else np.array([end], dtype=np.uint32)
        self.bytes = 0

    def add(self, span: Span) -> None:
        if span.begins:
            self.shard.begin_document()
        self.shard.add(self.tokenizer.encode(span.text))
        if span.ends and self.end is not None:
            self.shard.add(self.end)
        self.bytes += len(span.text) if span.text.isascii() else len(span.text.encode())

    def close(self, name: str) -> ShardInfo:
        return self.shard.close(name)
