"""Parquet: one column holds the texts. A row is a document, or a part of one where headings are given.

Rows are read in small batches: memory depends on the longest text and the page size, not on the file.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fledge.core.errors import UserError
from fledge.core.files import human_bytes
from fledge.text.chunking import Block, byte_chunks, text_chunks
from fledge.text.inputs import (
    DAMAGED_HINT,
    FIELD_HINT,
    TEXT_LIMIT,
    Chunk,
    Format,
    Input,
    ReadCounts,
    ReadOptions,
    Slice,
    missing_field,
    open_stored,
)

BATCH_BYTES = 8 << 20  # of text in one batch of rows

Row = tuple[int, int, str | None]  # row group, number of the row in the file, text


def read(part: Slice, options: ReadOptions, counts: ReadCounts) -> Iterator[Chunk]:
    source = part.source
    with open_file(source) as file:
        if options.heading and not source.csv:
            blocks = joined_blocks(file, part, options)
            for begin, offset, data, last in byte_chunks(blocks):
                yield Chunk(f"{source.name}@{begin}", data.decode(), last, offset, offset + len(data))
            return
        for _, number, text in read_rows(file, source, options.field, part.start, part.end):
            if text or source.csv:
                counts.nul += (text or "").count("\0")
                yield from text_chunks(f"{source.name}@{number}", text or "", options, counts)
            else:
                counts.empty += 1


@contextmanager
def open_file(source: Input) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_stored(source) as stored:
        try:
            file = pq.ParquetFile(stored, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"'{source.name}' is damaged: {_first_line(error)}", DAMAGED_HINT) from None
        yield file


def row_group_slices(source: Input, target: int) -> list[Slice]:
    """Slices of whole row groups, of about `target` stored bytes."""
    with open_file(source) as file:
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        sizes = [sum(g.column(c).total_compressed_size for c in range(g.num_columns)) for g in groups]
    starts, size = [0], 0
    for group, group_size in enumerate(sizes):
        if size and size + group_size > target:
            starts.append(group)
            size = 0
        size += group_size
    return [
        Slice(source, start, None if end == len(sizes) else end, size=sum(sizes[start:end]))
        for start, end in zip(starts, [*starts[1:], len(sizes)], strict=True)
    ]


def read_rows(file: Any, source: Input, field: str, start: int, end: int | None) -> Iterator[Row]:
    """The rows of the row groups [start, end)."""
    import pyarrow as pa

    check_field(file, source, field)
    meta = file.metadata
    column = meta.schema.names.index(field)
    number = sum(meta.row_group(i).num_rows for i in range(start))
    for group in range(start, meta.num_row_groups if end is None else end):
        rows = meta.row_group(group)
        size = rows.column(column).total_uncompressed_size // max(1, rows.num_rows)
        if size > TEXT_LIMIT:
            raise UserError(
                f"'{source.name}' holds texts of {human_bytes(size)} from row {number:,} on;"
                f" the limit is {human_bytes(TEXT_LIMIT)}",
                "split those documents, or store them as plain text",
            )
        batch_rows = max(1, min(4096, BATCH_BYTES // max(1, size)))
        try:
            for batch in file.iter_batches(batch_rows, row_groups=[group], columns=[field], use_threads=False):
                for text in batch.column(0).to_pylist():
                    yield group, number, text
                    number += 1
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            where = f"row group {group}, near row {number:,}"
            raise UserError(f"'{source.name}' is damaged in {where}: {_first_line(error)}", DAMAGED_HINT) from None


def check_field(file: Any, source: Input, field: str) -> None:
    """Refuse a column that does not exist or holds no text."""
    import pyarrow as pa

    schema = file.schema_arrow
    if field not in schema.names:
        raise missing_field(f"'{source.name}'", field, schema.names)
    kind = schema.field(field).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise UserError(f"'{source.name}': the field '{field}' is {kind}, not text", FIELD_HINT)


def joined_blocks(file: Any, part: Slice, options: ReadOptions) -> Iterator[Block]:
    """Rows joined from one heading to the next; a document belongs to the row group in which it begins."""
    try:
        heading = re.compile(options.heading)
    except re.error as error:
        raise UserError(f"'{options.heading}' is not a valid regular expression: {error}", "fix it") from None
    begin = 0 if part.start == 0 else None  # row of the current document; None: none has begun
    for group, number, row in read_rows(file, part.source, options.field, part.start, None):
        text = row or ""
        if heading.match(text) and number:
            if begin is not None:
                yield begin, b"", True
            if part.end is not None and group >= part.end:
                return
            begin = number
        if begin is not None:
            yield begin, options.normalized(text).encode(), False
    if begin is not None:
        yield begin, b"", True


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


FORMAT = Format(
    "parquet",
    (".parquet",),
    read,
    slices=row_group_slices,
    magic=b"PAR1",
    packed=True,
    sizes_known=lambda _, options: not options.heading,
)
