"""Encodings and line ends: which encoding a file is in, and how it is read as UTF-8 with LF.

UTF-8 is the rule. What a file is otherwise is guessed from its first part, always in the same way:

    a byte order mark                        UTF-16, UTF-32
    every other byte is NUL                  UTF-16 without a mark
    fewer invalid bytes than characters      UTF-8 with damage: '�' for each invalid byte
    high bytes stand alone, as é in café     Windows-1252, which contains Latin-1
    anything else                            no guess: read as UTF-8, and reported
"""

import codecs
import re
from typing import Protocol

UTF8 = "utf-8"
NAMES = {"utf-8": "UTF-8", "cp1252": "Windows-1252", "utf-16": "UTF-16", "utf-32": "UTF-32", "latin-1": "Latin-1"}
MARKS = ((b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
ESCAPED = re.compile("[\udc80-\udcff]")
CONTROLS = re.compile("[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]")
HIGH_RUNS = re.compile(rb"[\x80-\xff]+")
MAX_HIGH_PAIRS = 1 / 3  # of the high bytes: a Western text has few that follow another, others have mostly such


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes: ...


def guess_encoding(start: bytes, *, whole: bool = False) -> str | None:
    """The encoding of a file that starts like this, as the name of a codec; None: no guess fits.

    whole: these are all bytes of the file, so a character that is cut off at the end is damage.
    """
    if mark := next((name for mark, name in MARKS if start.startswith(mark)), None):
        return mark
    if start.startswith(codecs.BOM_UTF8):
        return UTF8
    if b"\0" in start:
        return next((name for name in ("utf-16-le", "utf-16-be") if is_utf16(start, name)), UTF8)
    text = decode_start(start, UTF8, "surrogateescape", whole=whole)
    invalid = len(ESCAPED.findall(text))
    if not invalid:
        return UTF8
    valid = len(text) - len(text.encode("ascii", "ignore")) - invalid  # characters beyond ASCII
    if valid > invalid:
        return UTF8
    runs = [len(run) for run in HIGH_RUNS.findall(start)]
    if sum(runs) - len(runs) > MAX_HIGH_PAIRS * sum(runs) or CONTROLS.search(text):
        return None
    return "cp1252" if "\ufffd" not in decode_start(start, "cp1252", "replace") else None


def is_utf16(start: bytes, name: str) -> bool:
    """Whether this is UTF-16 without a byte order mark: mostly ASCII, so every other byte is NUL."""
    high = start[1::2] if name == "utf-16-le" else start[::2]
    text = decode_start(start, name, "replace")
    if is_damaged(start, name) or CONTROLS.search(text) or not text.strip():
        return False
    return high.count(0) >= 0.5 * len(high)


def decode_start(start: bytes, name: str, errors: str, *, whole: bool = False) -> str:
    """Decode the start of a file; unless it is the whole, a character that is cut off at the end is left out."""
    return codecs.getincrementaldecoder(name)(errors).decode(start, final=whole)


def is_damaged(start: bytes, name: str | None, *, whole: bool = False) -> bool:
    """Whether a file that starts like this has bytes that are not valid in its encoding."""
    try:
        decode_start(start, name or UTF8, "strict", whole=whole)
    except UnicodeDecodeError:
        return True
    return False


def encoding_name(codec: str) -> str:
    """Windows-1252 for cp1252: the name that people know."""
    return NAMES.get(codec.removesuffix("-le").removesuffix("-be"), codec)


def invalid_byte(error: UnicodeError) -> tuple[str, int]:
    """An error handler of a decoder: the surrogate that stands for the byte 0xff."""
    assert isinstance(error, UnicodeDecodeError)
    return "\udcff", error.end


codecs.register_error("fledge.invalid_byte", invalid_byte)


class DecodedFile:
    """A file in another encoding, as UTF-8. An invalid byte becomes an invalid byte, which the reader counts."""

    def __init__(self, file: Readable, encoding: str) -> None:
        self._file, self._decode = file, codecs.getincrementaldecoder(encoding)("fledge.invalid_byte").decode
        self._data, self._ended = b"", False

    def read(self, size: int, /) -> bytes:
        while not self._data and not self._ended:
            more = self._file.read(size)
            self._ended = not more
            self._data = self._decode(more, final=self._ended).encode("utf-8", "surrogateescape")
        data, self._data = self._data[:size], self._data[size:]
        return data


def first_invalid(file: Readable, encoding: str, size: int) -> tuple[int, int]:
    """The offset of the first byte that is invalid in this encoding, and the byte; `size`: bytes of one read."""
    decoder, done = codecs.getincrementaldecoder(encoding)("strict"), 0
    try:
        while data := file.read(size):
            done += len(data)
            decoder.decode(data)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:  # its object begins with what the decoder has kept of the read before
        return done - len(error.object) + error.start, error.object[error.start]
    raise ValueError("no byte is invalid")


def with_lf(text: str) -> str:
    """Line ends of Windows (CRLF) and of old Macs (CR) as LF."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
