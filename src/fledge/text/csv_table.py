"""data.csv: the documents of a file become the rows of one CSV table, as pandas' `to_csv` writes it.

    documents  It swims.   Say "hi", she said.         →   text⏎It swims.⏎"Say ""hi"", she said."⏎

The table is one long document, in chunks. So a model also reads the quotes and the header, as models do whose text was
saved as CSV and then read as plain text.
"""

import csv
import io
from collections.abc import Iterable, Iterator

from fledge.core.errors import UserError
from fledge.core.files import human_bytes
from fledge.text.chunking import READ_SIZE, Block, byte_chunks
from fledge.text.inputs import TEXT_LIMIT, Chunk

HEADER = "text"


def table_chunks(name: str, rows: Iterable[Chunk]) -> Iterator[Chunk]:
    """The chunks of documents → the chunks of their table. `name`: of the file."""
    for _, offset, data, last in byte_chunks(table_blocks(name, rows)):
        yield Chunk(name, data.decode(), last, offset, offset + len(data))


def table_blocks(name: str, rows: Iterable[Chunk]) -> Iterator[Block]:
    """The table, many rows in a block."""
    block = bytearray(csv_row(HEADER))
    for text in whole_texts(name, rows):
        block += csv_row(text)
        if len(block) >= READ_SIZE:
            yield 0, bytes(block), False
            block.clear()
    yield 0, bytes(block), True


def whole_texts(name: str, rows: Iterable[Chunk]) -> Iterator[str]:
    parts: list[str] = []
    size = 0
    for chunk in rows:
        parts.append(chunk.text)
        size += len(chunk.text)
        if size > TEXT_LIMIT:
            raise UserError(
                f"'{name}' holds a document of more than {human_bytes(TEXT_LIMIT)}, too long for a row of a table",
                "leave out data.csv, or cut it into documents: --data.separator",
            )
        if chunk.last:
            yield "".join(parts)
            parts, size = [], 0


def csv_row(text: str) -> bytes:
    r"""A row of one field: quoted where it holds a quote, a comma or a line break, or nothing."""
    row = io.StringIO()
    csv.writer(row, lineterminator="\n").writerow([text])
    return row.getvalue().encode()
