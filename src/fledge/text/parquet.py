"""Parquet: one column holds the texts, one row is one document (or one part of it, where headings are given).

Rows are read a few at a time, so memory depends on the longest text and on the size of a page, not of the file.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fledge.core.errors import UserError
from fledge.core.files import human_bytes
from fledge.text.inputs import FIELD_HINT, Input, open_stored
from fledge.text.plain import Block

BATCH = 8 << 20  # bytes of text that one batch of rows should hold
TEXT_LIMIT = 64 << 20  # bytes: a text is held whole, a few times over
DAMAGED = "fetch or make the file again"


@contextmanager
def opened(source: Input) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_stored(source) as stored:
        try:
            file = pq.ParquetFile(stored, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"'{source.name}' is damaged: {_first_line(error)}", DAMAGED) from None
        yield file


def row_groups(source: Input) -> list[int]:
    """The stored size of each."""
    with opened(source) as file:
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        return [sum(g.column(c).total_compressed_size for c in range(g.num_columns)) for g in groups]


def rows(file: Any, source: Input, field: str, start: int, end: int | None) -> Iterator[tuple[int, int, str | None]]:
    """Row group, number of the row in the file, text; over the row groups [start, end)."""
    import pyarrow as pa

    check_field(file, source, field)
    meta = file.metadata
    column = meta.schema.names.index(field)
    number = sum(meta.row_group(i).num_rows for i in range(start))
    for group in range(start, meta.num_row_groups if end is None else end):
        facts = meta.row_group(group)
        size = facts.column(column).total_uncompressed_size // max(1, facts.num_rows)
        if size > TEXT_LIMIT:
            raise UserError(
                f"'{source.name}' holds texts of {human_bytes(size)} from row {number:,} on; {human_bytes(TEXT_LIMIT)} "
                "is the most",
                "split those documents, or keep them as plain text",
            )
        many = max(1, min(4096, BATCH // max(1, size)))
        try:
            for batch in file.iter_batches(many, row_groups=[group], columns=[field], use_threads=False):
                for text in batch.column(0).to_pylist():
                    yield group, number, text
                    number += 1
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"'{source.name}' is damaged in row group {group}, near row {number:,}: {_first_line(error)}", DAMAGED
            ) from None


def check_field(file: Any, source: Input, field: str) -> None:
    import pyarrow as pa

    schema = file.schema_arrow
    if field not in schema.names:
        known = ", ".join(f"'{name}'" for name in schema.names) or "nothing"
        raise UserError(f"'{source.name}' has no field '{field}'; it has: {known}", FIELD_HINT)
    kind = schema.field(field).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise UserError(f"'{source.name}': the field '{field}' is {kind}, not text", FIELD_HINT)


def joined_blocks(
    file: Any, source: Input, field: str, heading: str, start: int, end: int | None
) -> Iterator[tuple[int, str, bool]]:
    """Rows put together from one heading to the next; a document belongs to the row group in which it begins."""
    try:
        begins = re.compile(heading)
    except re.error as error:
        raise UserError(f"'{heading}' is no regular expression: {error}", "mend it") from None
    begin = 0 if start == 0 else None
    for group, number, row in rows(file, source, field, start, None):
        text = row or ""
        if begins.match(text) and number:
            if begin is not None:
                yield begin, "", True
            if end is not None and group >= end:
                return
            begin = number
        if begin is not None:
            yield begin, text, False
    if begin is not None:
        yield begin, "", True


def as_bytes(blocks: Iterator[tuple[int, str, bool]]) -> Iterator[Block]:
    return ((begin, text.encode(), last) for begin, text, last in blocks)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
