"""SOURCE → records: the objects of JSON files and the rows of Parquet files, each with the place where it stands.

chat.jsonl   chat.json (a list)   rows.parquet      a file, also compressed (.gz, .zst)
folder/   'folder/**/*.jsonl'                       the files of these kinds below it
https://…   hf://datasets/OWNER/NAME[/PATH]   s3://…
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fledge.core.errors import UserError
from fledge.downloads import hub
from fledge.text import parquet
from fledge.text.chunking import stored_lines
from fledge.text.formats import describe
from fledge.text.inputs import DAMAGED_HINT, Input, ReadCounts, ReadOptions, open_bytes
from fledge.text.jsonl import parse_line, type_name
from fledge.text.sources import find_files, split_weight

ENDINGS = tuple(kind + packed for kind in (".jsonl", ".ndjson", ".json", ".parquet") for packed in ("", ".gz", ".zst"))
STRICT = ReadOptions(errors="strict")
KINDS = "JSON lines (.jsonl), a JSON list (.json) or Parquet"
BATCH_ROWS = 1024  # of a Parquet file
SPACE = b" \t\r\n\xef\xbb\xbf"  # before the first character of a JSON file; the last three: a byte order mark


@dataclass(frozen=True)
class Record:
    file: str
    place: str  # for messages: 'chat.jsonl' line 3
    values: dict[str, Any]


def read_records(source: str) -> Iterator[Record]:
    for file in find_record_files(source):
        yield from read_file(file)


def find_record_files(source: str) -> list[Input]:
    """One file as it is; below a folder or for a glob those of known kinds."""
    if split_weight(source)[1] != 1:
        raise UserError(f"'{source}': examples are not sampled by weight", "give the source without its weight")
    if source.startswith(hub.SCHEME):
        files = hub.dataset_files(source, is_record_file)
        return [describe(each.name, str(hub.download_file(each))) for each in files]
    found = find_files(source).files
    chosen = found if len(found) == 1 else [each for each in found if is_record_file(each[0])]
    if not chosen:
        raise UserError(f"there are no examples in '{source}'", f"it should hold files with {KINDS}")
    return [fetch() for _, fetch in chosen]


def is_record_file(name: str) -> bool:
    return name.lower().endswith(ENDINGS)


def read_file(file: Input) -> Iterator[Record]:
    if file.format == "parquet":
        return parquet_records(file)
    with open_bytes(file) as content:
        first = b""
        while not first and (data := content.read(1 << 16)):
            first = data.lstrip(SPACE)[:1]
    if first == b"[":
        return list_records(file)
    if first == b"{":
        return line_records(file)
    raise UserError(f"'{file.name}' {'holds no examples' if first else 'is empty'}", f"examples are read from {KINDS}")


def line_records(file: Input) -> Iterator[Record]:
    with open_bytes(file) as content:
        for number, (offset, line) in enumerate(stored_lines(content, file), 1):
            if line.strip():
                value = parse_line(line, offset, file, STRICT, ReadCounts())
                yield as_record(file, f"line {number:,}", value)


def list_records(file: Input) -> Iterator[Record]:
    data = bytearray()
    with open_bytes(file) as content:
        while more := content.read(1 << 20):
            data += more
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"'{file.name}' is not JSON: {error}", "fix the file; examples one a line are JSON lines"
        ) from None
    for number, value in enumerate(values, 1):
        yield as_record(file, f"example {number:,}", value)


def parquet_records(file: Input) -> Iterator[Record]:
    import pyarrow as pa

    with parquet.open_file(file) as content:
        number = 0
        try:
            for batch in content.iter_batches(BATCH_ROWS, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield as_record(file, f"row {number:,}", row)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(f"'{file.name}' is damaged near row {number:,}: {error}", DAMAGED_HINT) from None


def as_record(file: Input, position: str, value: Any) -> Record:
    place = f"'{file.name}' {position}"
    if not isinstance(value, dict):
        raise UserError(f"{place} is {type_name(value)}, not an object", 'an example looks like {"messages": […]}')
    return Record(file.name, place, value)
