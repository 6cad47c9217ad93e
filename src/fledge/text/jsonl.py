"""JSON lines: one object a line, one of its fields is the text. Blank lines are passed over.

A line may be 64 MB long: it is held whole, a few times over, while it is understood. Longer texts belong in
a plain file or in parquet. Knows nothing of compression or of where the file lies.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

from fledge.core import fast_json
from fledge.core.errors import UserError
from fledge.core.files import human_bytes
from fledge.text.inputs import BOM, FIELD_HINT, Input, Readable, ReadCounts, ReadOptions
from fledge.text.plain import READ, decode

LINE_LIMIT = 64 << 20
LinePosition = Callable[
    [int], int
]  # an offset in the file → the number of its line, counted when somebody must be told


def lines(
    file: Readable, source: Input, start: int, end: int | None, number: LinePosition
) -> Iterator[tuple[int, bytes]]:
    """The lines that begin in [start, end), with their places. `file` stands at `start`, or one byte before it."""
    offset, data, ended = max(0, start - 1), b"", False
    mine = start == 0  # else the first line, or the line's end just before `start`, is somebody else's
    while not ended:
        more = file.read(READ)
        ended = not more
        if b"\n" not in more and not ended:
            data += more
            if len(data) > LINE_LIMIT:
                raise UserError(
                    f"'{source.name}' line {number(offset)} is longer than {human_bytes(LINE_LIMIT)}",
                    "split that document, or keep it as plain text or parquet",
                )
            continue
        *whole, data = (data + more).split(b"\n") if not ended else (data, b"")
        for line in whole:
            if end is not None and offset >= end:
                return
            if mine and line:
                yield offset, line
            mine, offset = True, offset + len(line) + 1


def text_of(line: bytes, at: int, source: Input, options: ReadOptions, counts: ReadCounts, number: LinePosition) -> str:
    """The text in one line; '' where it holds none."""
    value = value_of(line, at, source, options, counts, number)
    if not isinstance(value, dict):
        raise UserError(
            f"'{source.name}' line {number(at)} is no JSON object but {kind(value)}",
            'each line should read {"text": "…"}',
        )
    if options.field not in value:
        known = ", ".join(f"'{key}'" for key in value) or "nothing"
        raise UserError(
            f"'{source.name}' line {number(at)} has no field '{options.field}'; it has: {known}",
            FIELD_HINT,
        )
    text = value[options.field]
    if text is None:
        return ""
    if not isinstance(text, str):
        raise UserError(
            f"'{source.name}' line {number(at)}: the field '{options.field}' is {kind(text)}, not text",
            FIELD_HINT,
        )
    return text


def value_of(
    line: bytes, at: int, source: Input, options: ReadOptions, counts: ReadCounts, number: LinePosition
) -> Any:
    """What the line says; a blank one says nothing. What the fast parser does not take, the standard one judges."""
    try:
        return fast_json.loads(line)
    except ValueError:
        words = decode(line, (source, at), options.errors, counts)
    if at == 0:
        words = words.removeprefix(BOM)
    if not words.strip():
        return {options.field: None}
    try:
        return json.loads(words)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"'{source.name}' line {number(at)} is not JSON: {error}",
            "mend or remove that line; a plain text should not be called .jsonl",
        ) from None


def kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
