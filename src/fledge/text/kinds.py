"""Kinds of files: text or binary, and what makes text of those that are not.

The kind of a file is its extension; a binary file without one is "binary", one without content "empty".
"""

from collections.abc import Mapping
from pathlib import PurePath

from fledge.core.errors import UserError
from fledge.text.encodings import UTF8, guess_encoding

DOCUMENTS = (b"%PDF-", b"{\\rtf")  # may begin without a NUL
TOOLS = {
    "pdf": "pdftotext FILE.pdf FILE.txt",
    **{kind: f"pandoc FILE.{kind} -t plain -o FILE.txt" for kind in ("docx", "odt", "epub", "rtf")},
    **{kind: f"soffice --headless --convert-to txt FILE.{kind}" for kind in ("doc", "pptx", "odp")},
    **{kind: f"soffice --headless --convert-to csv FILE.{kind}" for kind in ("xlsx", "xls", "ods")},
}
SHOWN = 6  # kinds in a line


def file_kind(name: str, default: str = "binary") -> str:
    return PurePath(name).suffix[1:].lower() or default


def looks_binary(head: bytes) -> bool:
    """Whether the first bytes of a file are not text in any encoding."""
    return head.startswith(DOCUMENTS) or (b"\0" in head and guess_encoding(head) == UTF8)


def refuse_binary(head: bytes, name: str) -> None:
    """Refuse a file by its first bytes. What is not UTF-8 has been decoded before, unless only UTF-8 is allowed."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"'{name}' is UTF-16, not UTF-8", "convert it: iconv -f utf-16 -t utf-8 FILE > NEW")
    if b"\0" in head or head.startswith(DOCUMENTS):
        tool = TOOLS.get(file_kind(name))
        hint = f"make text of it: {tool}" if tool else "give a text file, or a folder that contains some"
        raise UserError(f"'{name}' is a binary file, not text", hint)


def list_kinds(kinds: Mapping[str, int]) -> str:
    """7 pdf, 4 png, 1 empty; the most frequent first, the rest together."""
    ordered = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    if len(ordered) > SHOWN:
        ordered = [*ordered[: SHOWN - 1], ("other", sum(count for _, count in ordered[SHOWN - 1 :]))]
    return ", ".join(f"{count:,} {kind}" for kind, count in ordered)
