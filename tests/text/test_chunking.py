"""Chunks and slices: together they are the whole file, for any bytes."""

import itertools
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.text import chunking, formats, plain
from fledge.text.encodings import with_lf
from fledge.text.formats import describe
from fledge.text.inputs import Chunk, Input, Newlines, ReadCounts, ReadOptions, Slice

SMALL = 64  # instead of 64 KiB, so that a short text has many chunks
GRAINS = [
    b"a",
    b"b ",
    b" c",
    b"\n",
    b"\r\n",
    b"\r",
    b"\n\n",
    b".\n",
    b"3",
    "ä".encode(),
    "🦆".encode(),
    b"\x80",
    b"\xf0",
    b"-",
]
bytes_of_any_kind = st.lists(st.sampled_from(GRAINS), max_size=250).map(b"".join)


@pytest.fixture(scope="module", autouse=True)
def small_chunks() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunking, "CHUNK_SIZE", SMALL)
        patch.setattr(chunking, "WINDOW", 16)
        for module in (chunking, plain):
            patch.setattr(module, "READ_SIZE", 7)
        yield


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slices") / "text"


def check(source: Input, options: ReadOptions) -> list[Chunk]:
    """Slices of any size give the chunks and the counts of the whole file."""
    counts = ReadCounts()
    whole = list(formats.read_slice(Slice(source), options, counts))
    for target in (1, 3 * SMALL, 10**9):
        counted = ReadCounts()
        parts = formats.slice_input(source, target)
        assert [p for part in parts for p in formats.read_slice(part, options, counted)] == whole
        assert counted == counts
    return whole


def texts(chunks: list[Chunk]) -> list[str]:
    return [document.text for document in formats.join_chunks(iter(chunks))]


@settings(max_examples=300)
@given(content=bytes_of_any_kind, mark=st.booleans(), newlines=st.sampled_from(["lf", "keep"]))
def test_slices_of_plain_text_give_the_same_chunks(file: Path, content: bytes, mark: bool, newlines: Newlines) -> None:
    content = b"\xef\xbb\xbf" * mark + content
    file.write_bytes(content)
    chunks = check(Input("x", str(file), "txt", size=len(content)), ReadOptions(newlines=newlines))
    whole = content.decode("utf-8", "replace").removeprefix("\ufeff")
    assert "".join(p.text for p in chunks) == (with_lf(whole) if newlines == "lf" else whole)
    assert [p.last for p in chunks] == [False] * (len(chunks) - 1) + [True] * bool(chunks)


@settings(max_examples=300)
@given(content=bytes_of_any_kind, separator=st.sampled_from(["\n\n", "-", "\n", "-b-", "a", "aba", "\r\n\r\n"]))
def test_slices_of_separated_text_give_the_same_chunks(file: Path, content: bytes, separator: str) -> None:
    file.write_bytes(content)
    chunks = check(Input("x", str(file), "txt", size=len(content)), ReadOptions(separator=separator))
    covered = bytearray(content)  # reference: mark all occurrences, overlapping ones too
    for match in re.finditer(b"(?=" + re.escape(separator.encode()) + b")", content):
        covered[match.start() : match.start() + len(separator)] = b"\0" * len(separator)
    assert texts(chunks) == [
        with_lf(part.decode("utf-8", "replace")) for part in re.split(b"\0+", bytes(covered)) if part
    ]


@settings(max_examples=200)
@given(held=st.lists(st.text(max_size=150), max_size=12), ending=st.sampled_from(["", "\n", "\n\n"]), raw=st.booleans())
def test_slices_of_json_lines_give_the_same_chunks(file: Path, held: list[str], ending: str, raw: bool) -> None:
    body = "\n".join(json.dumps({"text": text}, ensure_ascii=not raw) for text in held) + ending
    file.write_bytes(body.encode())
    chunks = check(Input("x", str(file), "jsonl", size=len(body.encode())), ReadOptions())
    assert texts(chunks) == [with_lf(text) for text in held if text]


@settings(max_examples=50)
@given(held=st.lists(st.text(max_size=150), min_size=1, max_size=12), group=st.integers(1, 5))
def test_slices_of_parquet_give_the_same_chunks(file: Path, held: list[str], group: int) -> None:
    pq.write_table(pa.table({"text": held}), file, row_group_size=group)
    chunks = check(describe("x", str(file)), ReadOptions())
    assert texts(chunks) == [with_lf(text) for text in held if text]


def test_chunks_end_at_word_boundaries(file: Path) -> None:
    content = b"word and word, then 12 words\n" * 20
    file.write_bytes(content)
    chunks = check(Input("x", str(file), "txt", size=len(content)), ReadOptions())
    assert len(chunks) > 5
    for before, after in itertools.pairwise(chunks):
        assert (re.search(r"\w$", before.text) and re.match(r" [a-z]", after.text)) or before.text.endswith("\n")


def test_compressed_file_is_one_slice(file: Path) -> None:
    assert formats.slice_input(Input("x", str(file), "txt", "gz", 10**6), 1) == [
        Slice(Input("x", str(file), "txt", "gz", 10**6))
    ]
