"""The registry of text formats, and what every caller uses: inspect a file, slice it, read its documents.

    add a format: write a module with a `Format` (inputs.py), and add it to FORMATS here

A document of up to 64 KiB comes as one chunk; a longer one in several, cut where every common tokenizer begins a new
word. `slice_input` divides a file among several readers so that each document has exactly one reader; together they
give the same chunks as a single reader. A document is named after its file, or FILE@POSITION where a file holds
several: the first byte in a text, of a JSON line or of a CSV row; the row number in Parquet.
"""

import codecs
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fledge.core.errors import UserError
from fledge.text import csv_text, html_text, jsonl, parquet, plain
from fledge.text.csv_table import table_chunks
from fledge.text.encodings import UTF8, Readable, decode_start, guess_encoding, is_damaged
from fledge.text.inputs import (
    DAMAGED_HINT,
    HEAD_SIZE,
    MAGIC,
    Chunk,
    Compression,
    Document,
    Format,
    Input,
    ReadCounts,
    ReadOptions,
    Slice,
    is_url,
    open_bytes,
    open_stored,
)
from fledge.text.kinds import looks_binary

DEFAULT = plain.FORMAT  # also of files with an unknown extension
FORMATS: dict[str, Format] = {
    each.name: each
    for each in (plain.FORMAT, jsonl.FORMAT, parquet.FORMAT, csv_text.CSV, csv_text.TSV, html_text.FORMAT)
}
BY_EXTENSION = {extension: each for each in FORMATS.values() for extension in each.extensions}
COMPRESSED = (".gz", ".zst")
SAMPLE, MAX_SAMPLES = 1 << 20, 16  # bytes by which the encoding is guessed


def is_readable_name(name: str) -> bool:
    """Whether the extension is that of a known format, compressed or not."""
    return _inner_extension(name) in BY_EXTENSION


def describe(name: str, path: str, size: int | None = None) -> Input:
    """Inspect a file: its compression, and its format by extension and first bytes."""
    if not is_url(path):
        path, size = str(Path(path).absolute()), Path(path).stat().st_size  # workers may run in other folders
    with open_stored(Input(name, path, DEFAULT.name)) as file:
        first = file.read(4)
    for each in FORMATS.values():
        if each.magic and first == each.magic:
            return Input(name, path, each.name, size=size)
    compression: Compression = next((kind for magic, kind in MAGIC.items() if first.startswith(magic)), "none")
    found = BY_EXTENSION.get(_inner_extension(path), DEFAULT)
    if found.magic:
        raise UserError(f"'{name}' is damaged: it does not begin as a {found.name} file does", DAMAGED_HINT)
    if found is DEFAULT:
        with open_bytes(Input(name, path, DEFAULT.name, compression)) as content:
            head = content.read(HEAD_SIZE)
        found = next((each for each in FORMATS.values() if each.recognize and each.recognize(head)), DEFAULT)
    return Input(name, path, found.name, compression, size)


def with_encoding(source: Input, options: ReadOptions) -> tuple[Input, bool]:
    """The input with its encoding and line ends; and whether it is known to have bytes that are invalid in it."""
    if FORMATS[source.format].packed:
        return source, False
    guessed = options.encoding == "auto" and options.errors != "strict"
    cheap = not is_url(source.path) and source.compression == "none" and source.format != "jsonl"
    start = b""
    with contextlib.suppress(UserError), open_bytes(source) as file:  # damage is reported when the file is read
        start = read_sample(file, MAX_SAMPLES if guessed and cheap else 1)
    whole = len(start) < SAMPLE
    named = UTF8 if options.encoding == "auto" else codecs.lookup(options.encoding).name
    found = guess_encoding(start, whole=whole) if guessed else named
    source = replace(source, encoding=found or UTF8)
    head = start if source.encoding == UTF8 else decode_start(start, source.encoding, "ignore").encode()
    return replace(source, crlf=2 * head.count(b"\r\n") > head.count(b"\n")), is_damaged(start, found, whole=whole)


def read_sample(file: Readable, most: int) -> bytes:
    """The first SAMPLE bytes; where they are pure ASCII, the first that are not, among `most` times SAMPLE bytes."""
    sample = b""
    for _ in range(most):
        data = b""
        while len(data) < SAMPLE and (more := file.read(SAMPLE - len(data))):
            data += more
        sample = data or sample
        if len(data) < SAMPLE or not data.isascii() or b"\0" in data:
            break
    return sample


def _inner_extension(path: str) -> str:
    """`.jsonl` of `a.jsonl.gz`; of a URL without its query."""
    extensions = [each.lower() for each in Path(path.partition("?")[0]).suffixes[-2:]]
    if extensions[-1:] and extensions[-1] in COMPRESSED:
        extensions.pop()
    return extensions[-1] if extensions else ""


def slice_input(source: Input, target: int) -> list[Slice]:
    """Slices of about `target` bytes; one slice if the file is compressed or its format cannot be sliced."""
    found = FORMATS[source.format].slices
    if found is None or not source.seekable or source.csv:
        return [Slice(source, size=source.size or 0)]
    return found(source, target)


def is_one_document(source: Input, options: ReadOptions) -> bool:
    """Whether the file is a single document, which slices would cut."""
    return source.csv or FORMATS[source.format].is_one_document(options.for_input(source))


def sizes_known(source: Input, options: ReadOptions) -> bool:
    """Whether the first chunk of a document tells the size of the document."""
    return not source.csv and FORMATS[source.format].sizes_known(source, options.for_input(source))


def is_packed(source: Input) -> bool:
    """Whether the file is stored smaller than its text."""
    return source.compression != "none" or FORMATS[source.format].packed


def read_slice(part: Slice, options: ReadOptions | None = None, counts: ReadCounts | None = None) -> Iterator[Chunk]:
    """The documents of a slice, in chunks."""
    options = (options or ReadOptions()).for_input(part.source)
    counts = ReadCounts() if counts is None else counts
    chunks = FORMATS[part.source.format].read(part, options, counts)
    for chunk in table_chunks(part.source.name, chunks) if part.source.csv else chunks:
        counts.bytes += chunk.end - chunk.start
        counts.documents += chunk.last
        yield chunk


def join_chunks(chunks: Iterator[Chunk]) -> Iterator[Document]:
    """Whole documents, for readers that hold all the text in memory anyway."""
    texts: list[str] = []
    for chunk in chunks:
        texts.append(chunk.text)
        if chunk.last:
            yield Document(chunk.document, "".join(texts))
            texts = []


def is_text(path: Path) -> bool:
    """Whether the file looks like text, by its first bytes. Compressed and Parquet files count as text."""
    with path.open("rb") as file:
        head = file.read(HEAD_SIZE)
    magic = (*MAGIC, *(each.magic for each in FORMATS.values() if each.magic))
    return head.startswith(magic) or not looks_binary(head)
