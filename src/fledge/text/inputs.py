"""What is read: an `Input` (one file), a `Slice` of it, the `Format`, and the `Chunk`s of documents that come out.

    INPUT.gz  →  open_bytes: the decompressed bytes, as a stream  →  chunks of documents (formats.py)

Opens local files and URLs, compressed or not. Which files belong to a SOURCE is decided in sources.py.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import IO, Any, Literal, cast

from fledge.core.errors import UserError
from fledge.core.files import DISK_FULL
from fledge.text.encodings import UTF8, DecodedFile, Readable, with_lf

Compression = Literal["none", "gz", "zst"]
Errors = Literal["replace", "strict"]
Newlines = Literal["lf", "keep"]

CHUNK_SIZE = 1 << 16  # bytes: longer documents come in chunks of about this size, which fits a CPU cache
HEAD_SIZE = 8192  # bytes that are inspected to tell text from binary
TEXT_LIMIT = 64 << 20  # bytes: a row, line or page that has to be held in memory as a whole
BOM = "\ufeff"  # a byte order mark at the start of a file is not part of the text
MAGIC: dict[bytes, Compression] = {b"\x1f\x8b": "gz", b"\x28\xb5\x2f\xfd": "zst"}
CODEC = {"gz": "gzip", "zst": "zstd"}
FIELD_HINT = "name the field that holds the text: --data.field NAME (fledge tokenizer: --field NAME)"
DAMAGED_HINT = "download or create the file again"


@dataclass(frozen=True)
class Input:
    """One file to read. `path`: a local path, or a URL that fsspec opens. `size`: bytes as stored.

    `format` is a name in formats.FORMATS. A named corpus sets its own `field`, `separator` and `heading`; where these
    are empty, the `ReadOptions` apply. `encoding` and `crlf` (its lines end like those of Windows) are guessed in
    formats.with_encoding. `split`: the split of a dataset to which all of it belongs; empty: its documents are divided.
    `source`: the number of its source, where sources are mixed by shares. `csv`: its documents are the rows of a table.
    """

    name: str
    path: str
    format: str
    compression: Compression = "none"
    size: int | None = None
    weight: float = 1.0
    encoding: str = UTF8
    crlf: bool = False
    field: str = ""
    separator: str = ""
    heading: str = ""
    split: str = ""
    source: int = 0
    csv: bool = False

    @property
    def seekable(self) -> bool:
        """Whether positions in the file are positions in the text, so that reading can begin anywhere."""
        return self.compression == "none" and self.encoding == UTF8


@dataclass(frozen=True)
class Slice:
    """The part [start, end) of an input: bytes, or row groups of a Parquet file. `end` None: to the end.

    `fraction`: the fraction of its documents to sample (sources.py). `alone`: of a long document only some slices are
    read, each as a document of its own. `size`: bytes as stored.
    """

    source: Input
    start: int = 0
    end: int | None = None
    fraction: float = 1.0
    alone: bool = False
    size: int = field(default=0, compare=False)


@dataclass(frozen=True)
class ReadOptions:
    """How text is read.

    `field`      the field or column that holds the text: JSON lines, Parquet, CSV
    `separator`  plain text: cuts a file into documents; a run of separators counts as one
    `heading`    Parquet: a regular expression; a row that matches begins a document, the rows after it continue it
    `errors`     invalid bytes: replace by U+FFFD and count, or refuse; only UTF-8 is then allowed
    `encoding`   the encoding of all files, or "auto": UTF-8, and what encodings.py guesses
    `newlines`   lf: line ends of Windows and old Macs become LF; keep: they stay
    """

    field: str = "text"
    separator: str = ""
    heading: str = ""
    errors: Errors = "replace"
    encoding: str = "auto"
    newlines: Newlines = "lf"

    def for_input(self, source: Input) -> "ReadOptions":
        """These options, overridden by those of the input."""
        separator = source.separator or self.separator
        if source.crlf and self.newlines == "lf":  # it is searched in the file as it is stored
            separator = with_lf(separator).replace("\n", "\r\n")
        return replace(
            self, field=source.field or self.field, separator=separator, heading=source.heading or self.heading
        )

    def normalized(self, text: str) -> str:
        return with_lf(text) if self.newlines == "lf" else text


@dataclass(frozen=True)
class Document:
    """One text: a file, an article, a story. `name` says where it comes from."""

    name: str
    text: str


@dataclass(frozen=True)
class Chunk:
    """A document, or the bytes [start, end) of a long one. `last`: the document ends here.

    `size`: bytes of the whole document; 0 if that is known only at its end.
    """

    document: str
    text: str
    last: bool = True
    start: int = field(default=0, compare=False)
    end: int = field(default=0, compare=False)
    size: int = field(default=0, compare=False)


@dataclass
class ReadCounts:
    """Counts of what was read. Each reader fills its own; `add` sums those of several processes."""

    documents: int = 0
    bytes: int = 0  # of text, as stored
    empty: int = 0  # empty documents, dropped
    replaced: int = 0  # invalid bytes
    nul: int = 0  # NUL characters, kept
    surrogates: int = 0  # lone surrogates in JSON, replaced

    def add(self, other: "ReadCounts") -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass(frozen=True)
class Format:
    """A text format: how its files are recognized, sliced and read.

    `slices`     divides a file into slices of about so many bytes; None: a file is always one slice
    `magic`      the first four bytes of every such file
    `recognize`  tells the format by the first bytes of a file whose extension is unknown or that of plain text
    `packed`     the file is stored smaller than its text
    """

    name: str
    extensions: tuple[str, ...]
    read: Callable[[Slice, ReadOptions, ReadCounts], Iterator[Chunk]]
    slices: Callable[[Input, int], list[Slice]] | None = None
    magic: bytes = b""
    recognize: Callable[[bytes], bool] | None = None
    packed: bool = False
    sizes_known: Callable[[Input, ReadOptions], bool] = lambda *_: True
    is_one_document: Callable[[ReadOptions], bool] = lambda _: False


class PeekedFile:
    """A stream whose first bytes, `head`, have been inspected. It can no longer seek."""

    def __init__(self, file: Readable) -> None:
        self.head, self._file = file.read(HEAD_SIZE), file
        self._pending = self.head

    def read(self, size: int, /) -> bytes:
        if self._pending:
            data, self._pending = self._pending[:size], self._pending[size:]
            return data
        return self._file.read(size)


def missing_field(where: str, field: str, known: Iterable[str]) -> UserError:
    names = ", ".join(f"'{name}'" for name in known) or "nothing"
    return UserError(f"{where} has no field '{field}'; it has: {names}", FIELD_HINT)


def is_url(path: str) -> bool:
    return "://" in path


@contextmanager
def storage_errors(name: str, action: str = "read") -> Iterator[None]:
    """Turn whatever a storage library raises into a `UserError`. A full local disk stays an OSError."""
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        hint = "pip install 'fledge[s3]'" if name.startswith("s3://") else "install it with pip"
        raise UserError(f"'{name}' needs a package that is not installed: {error}", hint) from None
    except FileNotFoundError:
        raise UserError(f"'{name}' does not exist", "check the address") from None
    except Exception as error:  # the exceptions of botocore, aiohttp, … have no common base class
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        hint = "check the address, the network and your credentials, or use a local file"
        raise UserError(f"could not {action} '{name}': {message[:200]}", hint) from None


@contextmanager
def open_stored(source: Input) -> Iterator[IO[bytes]]:
    """The bytes as they are stored, perhaps compressed; can seek."""
    if not is_url(source.path):
        with Path(source.path).open("rb") as file:
            yield file
        return
    import fsspec

    with storage_errors(source.name):
        opened = fsspec.open(source.path, "rb").open()
    with opened as file:
        yield cast(IO[bytes], RemoteFile(file, source.name))


class RemoteFile:
    """A file at a URL; errors while reading become a `UserError` with its name."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.file, self.name = file, name

    def read(self, size: int = -1, /) -> bytes:
        with storage_errors(self.name):
            return self.file.read(size)

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self.file, attribute)


class DecompressedFile:
    """The content of a compressed file. Damage is reported with its position."""

    def __init__(self, stored: IO[bytes], source: Input) -> None:
        import pyarrow as pa

        self.stream: Any = pa.CompressedInputStream(pa.PythonFile(stored, mode="r"), CODEC[source.compression])
        self.source = source
        self.done = 0

    def read(self, size: int) -> bytes:
        try:
            data: bytes = self.stream.read(size)
        except OSError as error:
            what = "is truncated" if "Truncated" in str(error) else f"is damaged ({error})"
            raise UserError(f"'{self.source.name}' {what} after {self.done:,} bytes of text", DAMAGED_HINT) from None
        self.done += len(data)
        return data


@contextmanager
def open_bytes(source: Input, start: int = 0) -> Iterator[Readable]:
    """The bytes from `start` on, decompressed and as UTF-8; only a seekable file can be read from the middle."""
    assert start == 0 or source.seekable
    with open_stored(source) as stored:
        stored.seek(start)
        file: Readable = stored if source.compression == "none" else DecompressedFile(stored, source)
        yield file if source.encoding == UTF8 else DecodedFile(file, source.encoding)
