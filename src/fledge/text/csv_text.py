"""CSV and TSV: the first row names the columns; one column holds the text, and each further row is a document.

Fields may be quoted with ", and may then contain delimiters, line breaks and doubled quotes. Whether a line break is
inside quotes depends on everything before it, so a file is one slice.
"""

import csv
from collections.abc import Iterator
from functools import partial

from fledge.core.errors import UserError
from fledge.text.chunking import decode, line_number, stored_lines, text_chunks
from fledge.text.inputs import (
    BOM,
    TEXT_LIMIT,
    Chunk,
    Format,
    PeekedFile,
    ReadCounts,
    ReadOptions,
    Slice,
    missing_field,
    open_bytes,
)
from fledge.text.kinds import refuse_binary

QUOTING_HINT = "quote a field that contains a delimiter, a line break or a quote, and double the quotes inside it"

Row = tuple[int, list[str]]  # offset in the file, fields


def read(part: Slice, options: ReadOptions, counts: ReadCounts, delimiter: str) -> Iterator[Chunk]:
    rows = read_rows(part, options, counts, delimiter)
    source = part.source
    _, header = next(rows, (0, []))
    if not header:
        counts.empty += 1
        return
    if options.field not in header:
        raise missing_field(f"'{source.name}'", options.field, header)
    column = header.index(options.field)
    for offset, row in rows:
        if len(row) != len(header):
            where = f"'{source.name}' line {line_number(source, offset)}"
            raise UserError(f"{where} has {len(row)} fields, and the header has {len(header)}", QUOTING_HINT)
        if row[column] or source.csv:
            yield from text_chunks(f"{source.name}@{offset}", row[column], options, counts)
        else:
            counts.empty += 1


def read_rows(part: Slice, options: ReadOptions, counts: ReadCounts, delimiter: str) -> Iterator[Row]:
    """All rows, the header included; blank lines are skipped."""
    source, next_line = part.source, 0  # offset of the line after the current row
    csv.field_size_limit(TEXT_LIMIT)

    def lines() -> Iterator[str]:
        nonlocal next_line
        for offset, line in stored_lines(file, source):
            next_line = offset + len(line)
            text = decode(line, (source, offset), options.errors, counts)
            yield text if offset else text.removeprefix(BOM)

    with open_bytes(source) as stored:
        file = PeekedFile(stored)
        refuse_binary(file.head, source.name)
        reader, offset = csv.reader(lines(), delimiter=delimiter, strict=True), 0
        try:
            for row in reader:
                if row:
                    yield offset, row
                offset = next_line
        except csv.Error as error:
            where = f"'{source.name}' line {line_number(source, offset)}"
            raise UserError(f"{where} cannot be parsed: {error}", QUOTING_HINT) from None


CSV = Format("csv", (".csv",), partial(read, delimiter=","))
TSV = Format("tsv", (".tsv",), partial(read, delimiter="\t"))
