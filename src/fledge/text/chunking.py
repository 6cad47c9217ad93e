"""Bytes of documents → chunks of text; lines of a file.

A chunk ends at the first safe position at or after each multiple of 64 KiB of the document: a position where every
common tokenizer begins a new word anyway. It is found from the bytes after that multiple alone, so two readers that
begin at different positions make the same cuts.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from fledge.core.errors import UserError
from fledge.core.files import human_bytes
from fledge.text.encodings import ESCAPED, UTF8, Readable, encoding_name, first_invalid
from fledge.text.inputs import (
    CHUNK_SIZE,
    TEXT_LIMIT,
    Chunk,
    Errors,
    Input,
    ReadCounts,
    ReadOptions,
    Slice,
    open_bytes,
)

READ_SIZE = 1 << 17
WINDOW = 1 << 14  # bytes after a multiple of CHUNK_SIZE in which a safe cut is searched
NEAR = 1 << 9  # most are found within these
# Before a space between two words, or after a line break: no word, number or run of punctuation crosses these.
SAFE = re.compile(r"(?<=[^\W_])(?= [^\W\d_])|(?<=\S\n)(?=[^\W_])")
SURROGATE = re.compile("[\ud800-\udfff]")

Block = tuple[int, bytes, bool]  # offset of the document, some of its bytes, whether they are its last
ByteChunk = tuple[int, int, bytes, bool]  # offset of the document, offset in it, bytes, whether the document ends


def safe_cut(window: bytes) -> int:
    """Offset of the first safe cut in the window. If there is none: a character boundary, or the document's end."""
    start = 0
    while start < min(3, len(window)) and window[start] & 0xC0 == 0x80:
        start += 1
    for reach in (NEAR, WINDOW):
        text = window[start:reach].decode("utf-8", "surrogateescape")
        if found := SAFE.search(text):
            return start + len(text[: found.start()].encode("utf-8", "surrogateescape"))
    return start if len(window) >= WINDOW else len(window)


def byte_chunks(blocks: Iterable[Block], first: int = 0, end: int | None = None) -> Iterator[ByteChunk]:
    """Each document, cut near every 64 KiB, but never between CR and LF.

    `first`, `end`: a slice of one long document, in multiples of 64 KiB; the blocks begin one byte before `first`.
    """
    data, offset = b"", max(0, first - 1)  # offset of data[0] in the document
    nominal, skipping = first or CHUNK_SIZE, first > 0
    for document, block, last in blocks:
        data += block
        while nominal < offset + len(data) and (last or nominal + WINDOW <= offset + len(data)):
            cut = nominal - offset
            cut += safe_cut(data[cut : cut + WINDOW])
            cut += data[cut - 1 : cut + 1] == b"\r\n"
            if not skipping:
                yield document, offset, data[:cut], last and cut == len(data)
            data, offset, skipping = data[cut:], offset + cut, False
            if end is not None and nominal >= end:
                return
            nominal += CHUNK_SIZE
        if last:
            if data and not skipping:
                yield document, offset, data, True
            data, offset, nominal, skipping = b"", 0, CHUNK_SIZE, False


def text_chunks(name: str, text: str, options: ReadOptions, counts: ReadCounts) -> Iterator[Chunk]:
    """A whole document, cut if it is long."""
    text = options.normalized(text)
    try:
        data = text.encode()
    except UnicodeEncodeError:  # JSON can escape lone surrogates, which UTF-8 cannot encode
        text, count = SURROGATE.subn("\ufffd", text)
        counts.surrogates += count
        data = text.encode()
    if len(data) <= CHUNK_SIZE:
        yield Chunk(name, text, end=len(data), size=len(data))
        return
    blocks = ((0, data[at : at + CHUNK_SIZE], at + CHUNK_SIZE >= len(data)) for at in range(0, len(data), CHUNK_SIZE))
    for _, offset, part, last in byte_chunks(blocks):
        yield Chunk(name, part.decode(), last, offset, offset + len(part), len(data))


def byte_slices(source: Input, target: int) -> list[Slice]:
    """Slices of about `target` bytes, in multiples of CHUNK_SIZE, so that every reader makes the same cuts."""
    if not source.size:
        return [Slice(source, size=0)]
    step = max(1, -(-target // CHUNK_SIZE)) * CHUNK_SIZE
    starts = list(range(0, source.size, step))
    return [
        Slice(source, start, None if end == source.size else end, size=end - start)
        for start, end in zip(starts, [*starts[1:], source.size], strict=True)
    ]


def decode(data: bytes, position: tuple[Input, int], errors: Errors, counts: ReadCounts) -> str:
    """UTF-8 → text. `position`: the input and the offset of data[0] in it, for the error message."""
    counts.nul += data.count(b"\0") if b"\0" in data else 0  # `in` is much faster than `count`
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        if errors == "strict":
            raise invalid_text(position[0], position[1] + error.start, data[error.start]) from None
    counts.replaced += len(ESCAPED.findall(data.decode("utf-8", "surrogateescape")))
    return data.decode("utf-8", "replace")


def invalid_text(source: Input, offset: int, byte: int) -> UserError:
    """`offset`, `byte`: of the first invalid byte of the file as UTF-8. Else it is searched in the file as stored."""
    hint = "name its encoding: --data.encoding cp1252; or convert it: iconv -f cp1252 -t utf-8 FILE > NEW"
    if source.encoding != UTF8:
        hint = "name another encoding: --data.encoding NAME; or read invalid bytes as '�': --data.errors replace"
        with open_bytes(replace(source, encoding=UTF8)) as file:
            offset, byte = first_invalid(file, source.encoding, READ_SIZE)
    return UserError(f"'{source.name}' is not {encoding_name(source.encoding)}: byte {offset} is 0x{byte:02x}", hint)


def stored_lines(file: Readable, source: Input, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of each line, its line feed included. `file` is at `offset`."""
    data = b""
    while more := file.read(READ_SIZE):
        data += more
        if b"\n" not in more:
            if len(data) > TEXT_LIMIT:
                raise UserError(
                    f"'{source.name}' line {line_number(source, offset)} is longer than {human_bytes(TEXT_LIMIT)}",
                    "split that document, or store it as plain text",
                )
            continue
        *lines, data = data.split(b"\n")
        for line in lines:
            yield offset, line + b"\n"
            offset += len(line) + 1
    if data:
        yield offset, data


def line_number(source: Input, offset: int) -> int:
    """The number of the line at this offset; counted only for error messages."""
    count = 1
    with open_bytes(source) as file:
        while offset > 0 and (data := file.read(min(offset, READ_SIZE))):
            count += data.count(b"\n")
            offset -= len(data)
    return count
