"""Plain text: bytes → documents → chunks, as a stream.

    bytes ─ split by the separator ─→ blocks of one document ─ cut near each 64 KiB ─→ chunks ─ decode ─→ text

A cut lies at the first safe place at or after each whole number of 64 KiB of the document: where every usual
tokenizer begins a new word anyway. It is found from the bytes behind that number alone, so two readers that
begin at different places agree on it. Decodes no JSON and opens no file.
"""

import re
from collections.abc import Iterable, Iterator

from fledge.core.errors import UserError
from fledge.text.inputs import CHUNK_SIZE, Errors, Input, Readable, ReadCounts, looks_binary

READ = 1 << 17
WINDOW = 1 << 14  # how far behind the nominal place a safe one is looked for
NEAR = 1 << 9  # where most are found
# Before a space between two words, or behind a line's end: no word, number or run of signs crosses these.
SAFE = re.compile(r"(?<=[^\W_])(?= [^\W\d_])|(?<=\S\n)(?=[^\W_])")
ESCAPED = re.compile("[\udc80-\udcff]")

Block = tuple[int, bytes, bool]  # where the document begins, some of its bytes, whether they are its last
ByteChunk = tuple[int, int, bytes, bool]  # document start, offset in it, bytes, whether they end it


def safe_cut(window: bytes) -> int:
    """Where to cut, counted from the window's beginning.

    Where no safe place is near: at a character's border, or at the end of the document, if that is near.
    """
    start = 0
    while start < min(3, len(window)) and window[start] & 0xC0 == 0x80:
        start += 1
    for reach in (NEAR, WINDOW):
        text = window[start:reach].decode("utf-8", "surrogateescape")
        if found := SAFE.search(text):
            return start + len(text[: found.start()].encode("utf-8", "surrogateescape"))
    return start if len(window) >= WINDOW else len(window)


def whole_blocks(file: Readable) -> Iterator[Block]:
    """A file without separators is one document, from wherever `file` stands."""
    held = file.read(READ)
    while more := file.read(READ):
        yield 0, held, False
        held = more
    yield 0, held, True


def separated_blocks(file: Readable, separator: bytes, start: int, end: int | None) -> Iterator[Block]:
    """The documents that begin in [start, end); `file` stands at `start`, or one separator before it."""
    length, run = len(separator), re.compile(_run_of(separator), re.DOTALL)
    offset = max(0, start - length)  # of data[0] in the file
    data, at, ended = b"", 0, False
    begin = 0 if start == 0 else None  # of the document being read; None while there is none
    while not ended:
        more = file.read(READ)
        data, offset, at, ended = data[at:] + more, offset + at, 0, not more
        while match := run.search(data, at):
            if match.end() + length > len(data) and not ended:  # the run may go on
                break
            if begin is not None:
                yield begin, data[at : match.start()], True
            begin, at = offset + match.end(), match.end()
            if end is not None and begin >= end:
                return
            begin = begin if begin >= start else None
        if match and begin is not None and match.start() > at:
            yield begin, data[at : match.start()], False
        # What is kept: the last of an unfinished run, or what may be the beginning of a separator.
        keep = match.end() - length if match else max(at, len(data) - length)
        if not match and begin is not None and not ended:
            yield begin, data[at:keep], False
        at = at if ended else keep
    if begin is not None:
        yield begin, data[at:], True


def _run_of(separator: bytes) -> bytes:
    """One separator and all that follow or overlap it: the next may begin wherever its beginning fits."""
    length = len(separator)
    shifts = [k for k in range(1, length + 1) if separator[k:] == separator[: length - k]]
    tails = b"|".join(re.escape(separator[length - k :]) for k in shifts)
    return re.escape(separator) + b"(?:" + tails + b")*+"


def byte_chunks(blocks: Iterable[Block], first: int = 0, end: int | None = None) -> Iterator[ByteChunk]:
    """Each document cut near every 64 KiB. `first` and `end` bound a part of one long document, in whole ones."""
    data, place = b"", first  # place: of data[0] in the document
    nominal, skipping = first or CHUNK_SIZE, first > 0
    for begin, block, last in blocks:
        data += block
        while nominal < place + len(data) and (last or nominal + WINDOW <= place + len(data)):
            cut = nominal - place
            cut += safe_cut(data[cut : cut + WINDOW])
            if not skipping:
                yield begin, place, data[:cut], last and cut == len(data)
            data, place, skipping = data[cut:], place + cut, False
            if end is not None and nominal >= end:
                return
            nominal += CHUNK_SIZE
        if last:
            if data and not skipping:
                yield begin, place, data, True
            data, place, nominal, skipping = b"", 0, CHUNK_SIZE, False


def decode(data: bytes, where: tuple[Input, int], errors: Errors, counts: ReadCounts) -> str:
    """`where` is the input and the place of data[0] in it, for the refusal."""
    counts.nul += data.count(b"\0") if b"\0" in data else 0  # to look is much faster than to count
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        if errors == "strict":
            source, place = where
            raise UserError(
                f"'{source.name}' is not UTF-8: byte {place + error.start} is 0x{data[error.start]:02x}",
                "convert it first, for example: iconv -f latin1 -t utf-8 FILE > NEW",
            ) from None
    counts.replaced += len(ESCAPED.findall(data.decode("utf-8", "surrogateescape")))
    return data.decode("utf-8", "replace")


def refuse_binary(head: bytes, name: str) -> None:
    if looks_binary(head):
        what = "UTF-16, not UTF-8" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "a binary file, not text"
        raise UserError(
            f"'{name}' is {what}", "give a text file (UTF-8), or a folder that holds some; iconv converts encodings"
        )
