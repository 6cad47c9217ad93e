"""JSON lines: one object per line; one of its fields is the text. Blank lines are skipped.

A line is held in memory as a whole, so it is limited to TEXT_LIMIT bytes.
"""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from fledge.core import fast_json
from fledge.core.errors import UserError
from fledge.text.chunking import byte_slices, decode, line_number, stored_lines, text_chunks
from fledge.text.encodings import Readable
from fledge.text.inputs import (
    BOM,
    FIELD_HINT,
    HEAD_SIZE,
    Chunk,
    Format,
    Input,
    ReadCounts,
    ReadOptions,
    Slice,
    missing_field,
    open_bytes,
)


def read(part: Slice, options: ReadOptions, counts: ReadCounts) -> Iterator[Chunk]:
    source = part.source
    with open_bytes(source, max(0, part.start - 1)) as file:
        for offset, line in lines_in(file, part):
            text = line_text(line, offset, source, options, counts)
            counts.nul += text.count("\0")  # JSON must escape it, so `decode` has not seen it
            if text or (source.csv and line.strip()):
                yield from text_chunks(f"{source.name}@{offset}", text, options, counts)
            else:
                counts.empty += bool(line.strip())


def lines_in(file: Readable, part: Slice) -> Iterator[tuple[int, bytes]]:
    """The lines that begin in the slice, with their offsets. `file` is at the slice's start, or one byte before it."""
    first = max(0, part.start - 1)
    for offset, line in stored_lines(file, part.source, first):
        if part.end is not None and offset >= part.end:
            return
        if part.start == 0 or offset > first:  # else the end of a line of the slice before
            yield offset, line


def line_text(line: bytes, offset: int, source: Input, options: ReadOptions, counts: ReadCounts) -> str:
    """The text of one line; '' if it has none."""
    number = partial(line_number, source)
    value = parse_line(line, offset, source, options, counts)
    if not isinstance(value, dict):
        raise UserError(
            f"'{source.name}' line {number(offset)} is not a JSON object but {type_name(value)}",
            'each line should look like {"text": "…"}',
        )
    if options.field not in value:
        raise missing_field(f"'{source.name}' line {number(offset)}", options.field, value)
    text = value[options.field]
    if text is None:
        return ""
    if not isinstance(text, str):
        raise UserError(
            f"'{source.name}' line {number(offset)}: the field '{options.field}' is {type_name(text)}, not text",
            FIELD_HINT,
        )
    return text


def parse_line(line: bytes, offset: int, source: Input, options: ReadOptions, counts: ReadCounts) -> Any:
    """The JSON value of a line. What the fast parser rejects is parsed, or rejected, by the standard library."""
    try:
        return fast_json.loads(line)
    except ValueError:
        text = decode(line, (source, offset), options.errors, counts)
    if offset == 0:
        text = text.removeprefix(BOM)
    if not text.strip():
        return {options.field: None}
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"'{source.name}' line {line_number(source, offset)} is not JSON: {error}",
            "fix or remove that line; a plain text file should not be named .jsonl",
        ) from None


def type_name(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def looks_like_json_lines(head: bytes) -> bool:
    """Two objects with the same keys, or one with a "text": JSON lines under another name."""
    lines = head.removeprefix(BOM.encode()).split(b"\n")
    if not lines[0].startswith(b"{"):
        return False
    if len(lines) == 1:
        return lines[0].startswith(b'{"text"') and (len(head) == HEAD_SIZE or "text" in _keys(lines[0]))
    first = _keys(lines[0])
    return "text" in first or (bool(first) and len(lines) > 2 and _keys(lines[1]) == first)


def _keys(line: bytes) -> set[str]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return set()
    return set(value) if isinstance(value, dict) else set()


FORMAT = Format("jsonl", (".jsonl", ".ndjson"), read, slices=byte_slices, recognize=looks_like_json_lines)
