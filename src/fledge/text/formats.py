"""One input → documents, in chunks: plain text, JSON lines, parquet; plain, gzip or zstd. Always as a stream.

A document of up to 64 KiB comes whole; a longer one in chunks that are cut where every usual tokenizer begins a
new word. `slices` divides an input among several readers so that each document has exactly one: put together, what
they read is what one reader would have read. Names tell where a document stands: NAME for a whole file, else
NAME@PLACE (the first byte in a text or of a JSON line, the row in a parquet).

Reads and checks; does not know where inputs come from (sources.py) or what tokens are.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fledge.text import jsonl, parquet, plain
from fledge.text.inputs import (
    BOM,
    CHUNK_SIZE,
    HEAD_SIZE,
    Chunk,
    Document,
    Input,
    Readable,
    ReadCounts,
    ReadOptions,
    describe,
    looks_binary,
    open_bytes,
)

__all__ = [
    "Chunk",
    "Document",
    "Input",
    "ReadCounts",
    "ReadOptions",
    "Slice",
    "is_text",
    "read_documents",
    "read_file",
    "read_slice",
]

SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Slice:
    """The part of an input in [start, end): bytes, or row groups of a parquet. `end` None: to the last.

    `share` says which part of its documents counts (sources.py); `size` is in bytes, as stored.
    """

    source: Input
    start: int = 0
    end: int | None = None
    fraction: float = 1.0
    size: int = field(default=0, compare=False)


def read_documents(
    source: Input, options: ReadOptions | None = None, counts: ReadCounts | None = None
) -> Iterator[Chunk]:
    """Every document of an input."""
    return read_slice(Slice(source), options, counts)


def slice_input(source: Input, target: int) -> list[Slice]:
    """Parts of about `target` bytes. What is compressed is read from its beginning, so it stays whole."""
    if source.format == "parquet":
        sizes = parquet.row_groups(source)
        edges, held = [0], 0
        for group, size in enumerate(sizes):
            if held and held + size > target:
                edges.append(group)
                held = 0
            held += size
        ends = [*edges[1:], len(sizes)]
        return [
            Slice(source, start, None if end == len(sizes) else end, size=sum(sizes[start:end]))
            for start, end in zip(edges, ends, strict=True)
        ]
    if source.compression != "none" or not source.size:
        return [Slice(source, size=source.size or 0)]
    step = max(1, -(-target // CHUNK_SIZE)) * CHUNK_SIZE  # whole chunks: every reader cuts in the same places
    edges = list(range(0, source.size, step))
    return [
        Slice(source, start, None if end == source.size else end, size=end - start)
        for start, end in zip(edges, [*edges[1:], source.size], strict=True)
    ]


def is_one_document(source: Input, options: ReadOptions) -> bool:
    """A plain text in which nothing stands between documents, however long it is."""
    return source.format == "txt" and not options.for_input(source).separator


def sizes_known(source: Input, options: ReadOptions) -> bool:
    """Whether the first chunk of a document tells already how large the document is."""
    if source.format == "txt":
        return is_one_document(source, options) and source.compression == "none" and source.size is not None
    return source.format == "jsonl" or not options.for_input(source).heading


def read_slice(part: Slice, options: ReadOptions | None = None, counts: ReadCounts | None = None) -> Iterator[Chunk]:
    source = part.source
    options = (options or ReadOptions()).for_input(source)
    counts = ReadCounts() if counts is None else counts
    reader = {"txt": _read_plain, "jsonl": _read_lines, "parquet": _read_parquet}[source.format]
    for chunk in reader(part, options, counts):
        counts.bytes += chunk.end - chunk.start
        counts.documents += chunk.last
        yield chunk


def _read_plain(part: Slice, options: ReadOptions, counts: ReadCounts) -> Iterator[Chunk]:
    source, separator = part.source, options.separator.encode()
    whole = source.size or 0 if source.compression == "none" and not separator else 0
    with open_bytes(source, max(0, part.start - len(separator))) as file:
        if not part.start:
            file = peeked = Peeked(file)
            plain.refuse_binary(peeked.head, source.name)
            counts.empty += not peeked.head.removeprefix(BOM.encode())
        if separator:
            parts = plain.byte_chunks(plain.separated_blocks(file, separator, part.start, part.end))
        else:
            parts = plain.byte_chunks(plain.whole_blocks(file), part.start, part.end)
        for begin, place, data, last in parts:
            text = plain.decode(data, (source, begin + place), options.errors, counts)
            if begin + place == 0:
                text = text.removeprefix(BOM)
            if text:
                name = f"{source.name}@{begin}" if separator else source.name
                yield Chunk(name, text, last, place, place + len(data), whole)


class Peeked:
    """A stream whose beginning was looked at; it can no longer be sought in."""

    def __init__(self, file: Readable) -> None:
        self.head, self.file = file.read(HEAD_SIZE), file
        self.held = self.head

    def read(self, size: int, /) -> bytes:
        if self.held:
            held, self.held = self.held, b""
            return held
        return self.file.read(size)


def _read_lines(part: Slice, options: ReadOptions, counts: ReadCounts) -> Iterator[Chunk]:
    source = part.source

    def number(offset: int) -> int:
        return _line_number(source, offset)

    with open_bytes(source, max(0, part.start - 1)) as file:
        for at, line in jsonl.lines(file, source, part.start, part.end, number):
            text = jsonl.text_of(line, at, source, options, counts, number)
            counts.nul += text.count("\0")  # in JSON it must be spelled out
            if text:
                yield from text_chunks(f"{source.name}@{at}", text, counts)
            else:
                counts.empty += bool(line.strip())


def _line_number(source: Input, offset: int) -> int:
    count = 1
    with open_bytes(source) as file:
        while offset > 0 and (data := file.read(min(offset, plain.READ))):
            count += data.count(b"\n")
            offset -= len(data)
    return count


def _read_parquet(part: Slice, options: ReadOptions, counts: ReadCounts) -> Iterator[Chunk]:
    source, field = part.source, options.field
    with parquet.opened(source) as file:
        if options.heading:
            joined = parquet.joined_blocks(file, source, field, options.heading, part.start, part.end)
            for begin, place, data, last in plain.byte_chunks(parquet.as_bytes(joined)):
                yield Chunk(f"{source.name}@{begin}", data.decode(), last, place, place + len(data))
            return
        for _, number, text in parquet.rows(file, source, field, part.start, part.end):
            if text:
                counts.nul += text.count("\0")
                yield from text_chunks(f"{source.name}@{number}", text, counts)
            else:
                counts.empty += 1


def text_chunks(name: str, text: str, counts: ReadCounts) -> Iterator[Chunk]:
    try:
        data = text.encode()
    except UnicodeEncodeError:  # JSON can spell half a character; no UTF-8 can hold it
        text, count = SURROGATE.subn("\ufffd", text)
        counts.surrogates += count
        data = text.encode()
    if len(data) <= CHUNK_SIZE:
        yield Chunk(name, text, end=len(data), size=len(data))
        return
    blocks = ((0, data[at : at + CHUNK_SIZE], at + CHUNK_SIZE >= len(data)) for at in range(0, len(data), CHUNK_SIZE))
    for _, place, part, last in plain.byte_chunks(blocks):
        yield Chunk(name, part.decode(), last, place, place + len(part), len(data))


def join_chunks(chunks: Iterator[Chunk]) -> Iterator[Document]:
    """Pieces put together again, for readers that hold everything anyway."""
    held: list[str] = []
    for chunk in chunks:
        held.append(chunk.text)
        if chunk.last:
            yield Document(chunk.document, "".join(held))
            held = []


def is_text(path: Path) -> bool:
    """A cheap look at the beginning: text holds no NUL byte. What is packed or parquet counts as text too."""
    with path.open("rb") as file:
        head = file.read(HEAD_SIZE)
    return head.startswith((b"PAR1", b"\x1f\x8b", b"\x28\xb5\x2f\xfd")) or not looks_binary(head)


def read_file(path: Path) -> Iterator[Document]:
    """The documents of one local file; what is not UTF-8 is refused."""
    return join_chunks(read_documents(describe(str(path), str(path)), ReadOptions(errors="strict")))
