"""HTML as plain text: tags, scripts and styles removed, entities decoded, block elements on lines of their own.

A file is one document, held in memory as a whole, so it is limited to TEXT_LIMIT bytes.
"""

import re
from collections.abc import Iterator
from html.parser import HTMLParser

from fledge.core.errors import UserError
from fledge.core.files import human_bytes
from fledge.text.chunking import decode, text_chunks
from fledge.text.encodings import Readable
from fledge.text.inputs import (
    BOM,
    HEAD_SIZE,
    TEXT_LIMIT,
    Chunk,
    Format,
    ReadCounts,
    ReadOptions,
    Slice,
    open_bytes,
)
from fledge.text.kinds import refuse_binary

SKIPPED = frozenset(("script", "style", "template", "noscript"))
BLOCK_TAGS = (
    "address article aside blockquote body br caption dd details dialog div dl dt fieldset figcaption figure footer"
    " form h1 h2 h3 h4 h5 h6 head header hr html legend li main nav ol option p pre section select summary table tbody"
    " tfoot thead title tr ul"
)
BLOCKS = frozenset(BLOCK_TAGS.split())
CELLS = frozenset(("td", "th"))
SPACE = re.compile(r"[ \t\n\r\f]+")


def read(part: Slice, options: ReadOptions, counts: ReadCounts) -> Iterator[Chunk]:
    source = part.source
    with open_bytes(source) as file:
        content = _read_all(file, source.name)
    refuse_binary(content[:HEAD_SIZE], source.name)
    text = html_to_text(decode(content, (source, 0), options.errors, counts).removeprefix(BOM), source.name)
    if text:
        yield from text_chunks(source.name, text, options, counts)
    else:
        counts.empty += 1


def _read_all(file: Readable, name: str) -> bytes:
    content = bytearray()
    while data := file.read(1 << 20):
        content += data
        if len(content) > TEXT_LIMIT:
            raise UserError(f"'{name}' is longer than {human_bytes(TEXT_LIMIT)}", "split it, or store it as plain text")
    return bytes(content)


def html_to_text(content: str, name: str = "HTML") -> str:
    parser = TextExtractor()
    try:
        parser.feed(content)
        parser.close()
    except AssertionError as error:  # the standard library's answer to some broken declarations
        raise UserError(f"'{name}' is not valid HTML: {error}", "fix it, or store it as plain text") from None
    return parser.text()


class TextExtractor(HTMLParser):
    """Collects the text of a page, line by line."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._lines: list[str] = []
        self._line: list[str] = []
        self._skipped = 0  # depth of SKIPPED elements
        self._preformatted = 0  # depth of <pre>

    def text(self) -> str:
        self._break_line()
        return "\n".join(self._lines)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self._skipped += tag in SKIPPED
        if tag in BLOCKS:
            self._break_line()
        elif tag in CELLS:
            self._line.append(" ")
        self._preformatted += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        self._skipped = max(0, self._skipped - (tag in SKIPPED))
        if tag in BLOCKS:
            self._break_line()
        self._preformatted = max(0, self._preformatted - (tag == "pre"))

    def handle_data(self, data: str) -> None:
        if self._skipped:
            return
        if not self._preformatted:
            self._line.append(data)
            return
        first, *others = data.split("\n")
        self._line.append(first)
        for line in others:
            self._lines.append("".join(self._line))
            self._line = [line]

    def _break_line(self) -> None:
        line = "".join(self._line)
        if not self._preformatted:
            line = SPACE.sub(" ", line).strip(" ")
        if line:
            self._lines.append(line)
        self._line = []


FORMAT = Format("html", (".html", ".htm"), read)
