"""One file → documents. Here: plain text, in any language, code too.

Reads and checks bytes; does not know where files come from (sources.py) or what tokens are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fledge.base.errors import UserError


@dataclass(frozen=True)
class Document:
    """A text that belongs together: a file, an article, a story. `name` says where it came from."""

    name: str
    text: str


def is_text(path: Path) -> bool:
    """A cheap look at the beginning: text holds no NUL byte."""
    with path.open("rb") as file:
        return b"\0" not in file.read(8192)


def read_file(path: Path) -> Iterator[Document]:
    if not is_text(path):
        raise UserError(f"'{path}' is a binary file, not text", "give a text file (UTF-8), or a folder that holds some")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"'{path}' is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}",
            "convert it first, for example: iconv -f latin1 -t utf-8 FILE > NEW",
        ) from None
    if text:
        yield Document(str(path), text)
