"""What there is to read: one file, where it lies, how it is packed, and how its text is asked for.

`describe` looks at the first bytes, because endings lie. Nothing here turns bytes into documents (formats.py),
and nothing here knows which files belong to a SOURCE (sources.py).

    INPUT.gz  →  open_bytes: the plain bytes, as a stream  →  chunks of documents
"""

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, Any, Literal, Protocol, cast

from fledge.core.errors import UserError

Format = Literal["txt", "jsonl", "parquet"]
Compression = Literal["none", "gz", "zst"]
Errors = Literal["replace", "strict"]

CHUNK_SIZE = 1 << 16  # bytes: longer documents come in chunks of about this size, small enough for a core's own cache
HEAD_SIZE = 8192  # bytes that are looked at to tell text from binary
BOM = "\ufeff"  # at the beginning of a file it says that this is UTF-8, and is no part of the text
MAGIC: dict[bytes, Compression] = {b"\x1f\x8b": "gz", b"\x28\xb5\x2f\xfd": "zst"}
CODEC = {"gz": "gzip", "zst": "zstd"}
LINES = (".jsonl", ".ndjson")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
FIELD_HINT = "choose the field that holds the text: --data.field NAME; of fledge tokenizer: --field NAME"


@dataclass(frozen=True)
class Input:
    """One file to read. `path` is a local path, or a URL that fsspec opens. `size` is in bytes, as stored.

    A named corpus knows its own `field`, `separator` and `heading`; where these are empty, the reader's options hold.
    """

    name: str
    path: str
    format: Format
    compression: Compression = "none"
    size: int | None = None
    weight: float = 1.0
    field: str = ""
    separator: str = ""
    heading: str = ""


@dataclass(frozen=True)
class ReadOptions:
    """How text is to be read.

    `field`      which field of a JSON line or a parquet row is the text
    `separator`  cuts a plain text into documents; it belongs to none of them, and a run of them counts as one
    `heading`    a regular expression: in parquet, a row that it matches begins a document, the others go on with it
    `errors`     bytes that are not UTF-8 become U+FFFD and are counted, or are refused
    """

    field: str = "text"
    separator: str = ""
    heading: str = ""
    errors: Errors = "replace"

    def for_input(self, source: Input) -> "ReadOptions":
        return ReadOptions(
            source.field or self.field, source.separator or self.separator, source.heading or self.heading, self.errors
        )


@dataclass(frozen=True)
class Document:
    """A text that belongs together: a file, an article, a story. `name` says where it came from."""

    name: str
    text: str


@dataclass(frozen=True)
class Chunk:
    """A document, or a part of a long one: the bytes [start, end) of it, as stored. `last`: the document ends here.

    `size` is that of the whole document; 0 where it shows only at the end.
    """

    document: str
    text: str
    last: bool = True
    start: int = field(default=0, compare=False)
    end: int = field(default=0, compare=False)
    size: int = field(default=0, compare=False)


@dataclass
class ReadCounts:
    """What was met on the way. Each reader fills its own; `add` joins those of several processes."""

    documents: int = 0
    bytes: int = 0  # of text, as stored
    empty: int = 0  # documents of nothing, left out
    replaced: int = 0  # bytes that were not UTF-8
    nul: int = 0  # NUL characters, kept
    surrogates: int = 0  # halves of characters in JSON, replaced

    def add(self, other: "ReadCounts") -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


class Readable(Protocol):
    """A stream of plain bytes, wherever they come from."""

    def read(self, size: int, /) -> bytes: ...


def is_url(path: str) -> bool:
    return "://" in path


@contextmanager
def storage_errors(name: str, act: str = "read") -> Iterator[None]:
    """Whatever a storage library raises, in our two lines. A full disk is this machine's, and keeps its own words."""
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        hint = "pip install 'fledge[s3]'" if name.startswith("s3://") else "install it with pip"
        raise UserError(f"'{name}' needs a package that is not installed: {error}", hint) from None
    except FileNotFoundError:
        raise UserError(f"there is no '{name}'", "check the address") from None
    except Exception as error:  # botocore's, aiohttp's, … have no common root
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        words = " ".join(str(error).split()) or type(error).__name__
        hint = "check the address, the network and your credentials; a local file always works"
        raise UserError(f"could not {act} '{name}': {words[:200]}", hint) from None


@contextmanager
def open_stored(source: Input) -> Iterator[IO[bytes]]:
    """The bytes as they are stored, compressed or not; they can be sought in."""
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
    """A file whose storage may go away while it is read."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.file, self.name = file, name

    def read(self, size: int = -1, /) -> bytes:
        with storage_errors(self.name):
            return self.file.read(size)

    def __getattr__(self, other: str) -> Any:
        return getattr(self.file, other)


class DecompressedFile:
    """A compressed file as plain bytes; where it is damaged is told with the place."""

    def __init__(self, stored: IO[bytes], source: Input) -> None:
        import pyarrow as pa

        self.stream: Any = pa.CompressedInputStream(pa.PythonFile(stored, mode="r"), CODEC[source.compression])
        self.source = source
        self.done = 0

    def read(self, size: int) -> bytes:
        try:
            data: bytes = self.stream.read(size)
        except OSError as error:
            what = "ends too early" if "Truncated" in str(error) else f"is damaged ({error})"
            raise UserError(
                f"'{self.source.name}' {what}, {self.done:,} bytes into its text",
                "fetch or make the file again; what comes before that place is whole",
            ) from None
        self.done += len(data)
        return data


@contextmanager
def open_bytes(source: Input, start: int = 0) -> Iterator[Readable]:
    """The plain bytes from `start` on; what is compressed can only be read from its beginning."""
    with open_stored(source) as stored:
        if source.compression == "none":
            stored.seek(start)
            yield stored
        else:
            assert start == 0
            yield DecompressedFile(stored, source)


def describe(name: str, path: str, size: int | None = None) -> Input:
    """Format and compression by the first bytes; the ending decides only where these could be either."""
    if not is_url(path):
        path, size = str(Path(path).absolute()), Path(path).stat().st_size  # readers may work in other folders
    probe = Input(name, path, "txt", size=size)
    with open_stored(probe) as file:
        first = file.read(4)
    ending = Path(path.partition("?")[0]).suffixes[-2:]
    if first == b"PAR1":
        return Input(name, path, "parquet", size=probe.size)
    compression: Compression = next((kind for magic, kind in MAGIC.items() if first.startswith(magic)), "none")
    if ending[-1:] == [".parquet"]:
        raise UserError(f"'{name}' is damaged: it does not begin as a parquet file does", "fetch or make it again")
    packed = Input(name, path, "txt", compression, probe.size)
    with open_bytes(packed) as plain:
        head = plain.read(HEAD_SIZE)
    inner = ending[:-1] if ending[-1:] in ([".gz"], [".zst"]) else ending
    lines = inner[-1:] in ([end] for end in LINES) or looks_like_json_lines(head)
    return Input(name, path, "jsonl" if lines else "txt", compression, probe.size)


def looks_like_json_lines(head: bytes) -> bool:
    """Whether a file that is not called so holds JSON lines: two objects alike, or one with a text in it."""
    lines = head.removeprefix(BOM.encode()).split(b"\n")
    if not lines[0].startswith(b"{"):
        return False
    if len(lines) == 1:
        return lines[0].startswith(b'{"text"') and (len(head) == HEAD_SIZE or "text" in keys(lines[0]))
    first = keys(lines[0])
    return "text" in first or (bool(first) and len(lines) > 2 and keys(lines[1]) == first)


def keys(line: bytes) -> set[str]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return set()
    return set(value) if isinstance(value, dict) else set()


def looks_binary(head: bytes) -> bool:
    """Text holds no NUL at its beginning; UTF-16 gives itself away by its mark."""
    return b"\0" in head or head.startswith((b"\xff\xfe", b"\xfe\xff"))
