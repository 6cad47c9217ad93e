"""Plain text and Markdown: a file is one document, or several between separators.

bytes ─ split at the separator ─→ blocks of one document ─ cut near each 64 KiB ─→ chunks ─ decode ─→ text
"""

import re
from collections.abc import Iterator

from fledge.text.chunking import READ_SIZE, Block, byte_chunks, byte_slices, decode
from fledge.text.encodings import Readable
from fledge.text.inputs import (
    BOM,
    Chunk,
    Format,
    Input,
    PeekedFile,
    ReadCounts,
    ReadOptions,
    Slice,
    open_bytes,
)
from fledge.text.kinds import refuse_binary


def read(part: Slice, options: ReadOptions, counts: ReadCounts) -> Iterator[Chunk]:
    source, separator = part.source, options.separator.encode()
    size = source.size or 0 if _size_known(source, options) else 0
    with open_bytes(source, max(0, part.start - max(1, len(separator)))) as file:
        if not part.start:
            file = peeked = PeekedFile(file)
            refuse_binary(peeked.head, source.name)
            counts.empty += not peeked.head.removeprefix(BOM.encode())
        if separator:
            chunks = byte_chunks(separated_blocks(file, separator, part.start, part.end))
        else:
            chunks = byte_chunks(whole_blocks(file), part.start, part.end)
        for document, offset, data, last in chunks:
            text = decode(data, (source, document + offset), options.errors, counts)
            if document + offset == 0:
                text = text.removeprefix(BOM)
            if text := options.normalized(text):
                name = f"{source.name}@{document}" if separator else source.name
                yield Chunk(name, text, last, offset, offset + len(data), size)


def whole_blocks(file: Readable) -> Iterator[Block]:
    """A file without separators: one document, from wherever `file` is."""
    data = file.read(READ_SIZE)
    while more := file.read(READ_SIZE):
        yield 0, data, False
        data = more
    yield 0, data, True


def separated_blocks(file: Readable, separator: bytes, start: int, end: int | None) -> Iterator[Block]:
    """The documents that begin in [start, end). `file` is at `start`, or one separator before it."""
    length, run = len(separator), re.compile(_run_of(separator), re.DOTALL)
    offset = max(0, start - length)  # of data[0] in the file
    data, at, ended = b"", 0, False
    begin = 0 if start == 0 else None  # offset of the current document; None: before the first
    while not ended:
        more = file.read(READ_SIZE)
        data, offset, at, ended = data[at:] + more, offset + at, 0, not more
        while match := run.search(data, at):
            if match.end() + length > len(data) and not ended:  # the run may continue
                break
            if begin is not None:
                yield begin, data[at : match.start()], True
            begin, at = offset + match.end(), match.end()
            if end is not None and begin >= end:
                return
            begin = begin if begin >= start else None
        if match and begin is not None and match.start() > at:
            yield begin, data[at : match.start()], False
        # Keep the end of an unfinished run, or what may be the beginning of a separator.
        keep = match.end() - length if match else max(at, len(data) - length)
        if not match and begin is not None and not ended:
            yield begin, data[at:keep], False
        at = at if ended else keep
    if begin is not None:
        yield begin, data[at:], True


def _run_of(separator: bytes) -> bytes:
    """A pattern for one separator and all that follow or overlap it."""
    length = len(separator)
    shifts = [k for k in range(1, length + 1) if separator[k:] == separator[: length - k]]
    tails = b"|".join(re.escape(separator[length - k :]) for k in shifts)
    return re.escape(separator) + b"(?:" + tails + b")*+"


def _size_known(source: Input, options: ReadOptions) -> bool:
    return not options.separator and source.seekable and source.size is not None


FORMAT = Format(
    "txt",
    (".txt", ".md"),
    read,
    slices=byte_slices,
    sizes_known=_size_known,
    is_one_document=lambda options: not options.separator,
)
