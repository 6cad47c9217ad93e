"""One file → documents: plain text, JSON lines, Parquet, and how a format is found."""

import gzip
import io
import json
import pickle
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.errors import UserError
from fledge.text import chunking, formats
from fledge.text import parquet as parquet_format
from fledge.text.encodings import with_lf
from fledge.text.formats import describe, is_text
from fledge.text.inputs import CHUNK_SIZE, Document, Input, ReadCounts, ReadOptions, Slice


def read_file(path: Path) -> list[Document]:
    found = formats.read_slice(Slice(describe(str(path), str(path))), ReadOptions(errors="strict"))
    return list(formats.join_chunks(found))


def test_file_is_one_document_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("Käse\r\n\n\tend ".encode())
    assert read_file(file) == [Document(str(file), "Käse\n\n\tend ")]


def test_byte_order_mark_is_removed(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfhello")
    assert [d.text for d in read_file(file)] == ["hello"]


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"])
def test_empty_file_has_no_document(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    assert read_file(tmp_path / "a.txt") == []


def test_binary_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"text\0text")
    assert not is_text(tmp_path / "a.bin")
    with pytest.raises(UserError, match=r"a\.bin' is a binary file"):
        read_file(tmp_path / "a.bin")


def test_invalid_utf8_is_refused_with_byte_and_offset(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("grün".encode("latin1"))
    with pytest.raises(UserError, match=r"a\.txt' is not UTF-8: byte 2 is 0xfc") as caught:
        read_file(tmp_path / "a.txt")
    assert "iconv" in caught.value.hint


@given(st.text(min_size=1).filter(lambda text: "\0" not in text and text[0] != "\ufeff"))
def test_any_text_round_trips(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any.txt"
    file.write_bytes(text.encode())
    assert [d.text for d in read_file(file)] == [with_lf(text)]


def zstd(content: bytes) -> bytes:
    held = pa.BufferOutputStream()
    with pa.CompressedOutputStream(held, "zstd") as stream:
        stream.write(content)
    return held.getvalue().to_pybytes()


def parquet(**columns: list[object]) -> bytes:
    held = io.BytesIO()
    pq.write_table(pa.table(columns), held)
    return held.getvalue()


def read(file: Path, counts: ReadCounts | None = None, **options: str) -> list[str]:
    found = formats.read_slice(Slice(describe(file.name, str(file))), ReadOptions(**options), counts)  # type: ignore[arg-type]
    return [document.text for document in formats.join_chunks(found)]


LINES = b'{"text": "one"}\n{"text": "two"}\n'


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.txt", b"plain", ["plain"]),
        ("a.py", b"{'a': 1}\n{}", ["{'a': 1}\n{}"]),
        ("a.json", b'{"name": "x"}\n', ['{"name": "x"}\n']),
        ("a.jsonl", LINES, ["one", "two"]),
        ("a.txt", LINES, ["one", "two"]),
        ("a", b'\xef\xbb\xbf{"text": "one"}', ["one"]),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0), ["one", "two"]),
        ("a.gz", gzip.compress(LINES, mtime=0), ["one", "two"]),
        ("a.txt", gzip.compress(b"pla", mtime=0) + gzip.compress(b"in", mtime=0), ["plain"]),
        ("a.txt.zst", zstd(b"pla") + zstd(b"in"), ["plain"]),
        ("a.gz", b"not packed at all", ["not packed at all"]),
        ("a.bin", parquet(text=["one", None, "two"]), ["one", "two"]),
        ("a.jsonl", b'{"text": "one"}\r\n\r\n{"text": "two"}\r\n', ["one", "two"]),
    ],
)
def test_format_is_found_by_content_and_extension(tmp_path: Path, name: str, content: bytes, texts: list[str]) -> None:
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path / name) == texts


@pytest.mark.parametrize("pack", [gzip.compress, zstd], ids=["gzip", "zstd"])
@pytest.mark.parametrize("cut", [1, 2], ids=["cut", "flipped"])
def test_damaged_archive_is_refused_by_name_and_position(tmp_path: Path, pack: object, cut: int) -> None:
    content = bytearray(pack(bytes(i * i % 251 for i in range(900_000)).replace(b"\0", b"a")))  # type: ignore[operator]
    if cut == 1:
        del content[-9:]
    else:
        content[12:400] = b"\xff" * 388
    (tmp_path / "a.txt.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"'a\.txt\.gz' (is truncated|is damaged).* after [\d,]+ bytes of text"):
        read(tmp_path / "a.txt.gz")


@pytest.mark.parametrize("place", ["end", "beginning", "middle"])
def test_damaged_parquet_is_refused_by_name(tmp_path: Path, place: str) -> None:
    content = bytearray(parquet(text=[f"{n * n} words" for n in range(5000)]))
    if place == "end":
        del content[-20:]
    elif place == "beginning":
        content[:4] = b"XXXX"
    else:
        content[5:2000] = b"\xff" * 1995
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"'a\.parquet' is damaged"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{broken", "line 3 is not JSON"),
        (b"[1]", "line 3 is not a JSON object but a list"),
        (b'"text"', "line 3 is not a JSON object but a string"),
        (b"[" * 50_000, "line 3 is not JSON"),
        (b'{"body": "x", "id": 1}', "line 3 has no field 'text'; it has: 'body', 'id'"),
        (b'{"text": ["x"]}', "line 3: the field 'text' is a list, not text"),
    ],
)
def test_invalid_json_line_is_refused_by_number(tmp_path: Path, line: bytes, words: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES + line + b"\n")
    with pytest.raises(UserError) as caught:
        read(tmp_path / "a.jsonl")
    assert f"'a.jsonl' {words}" in caught.value.message
    last = formats.Slice(describe("a.jsonl", str(tmp_path / "a.jsonl")), len(LINES))
    with pytest.raises(UserError, match="line 3"):
        list(formats.read_slice(last))


def test_endless_json_line_is_refused_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "TEXT_LIMIT", 1 << 20)
    (tmp_path / "a.jsonl").write_bytes(LINES + b'{"text": "' + b"x" * (1 << 22) + b'"}\n')
    with pytest.raises(UserError, match=r"line 3 is longer than 1\.0 MB"):
        read(tmp_path / "a.jsonl")


def test_parquet_with_too_long_texts_is_refused_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_format, "TEXT_LIMIT", 1 << 20)
    pq.write_table(pa.table({"text": ["word " * (1 << 20)]}), tmp_path / "a.parquet", use_dictionary=False)
    with pytest.raises(UserError, match=r"holds texts of 5\.2 MB from row 0 on; the limit is 1\.0 MB"):
        read(tmp_path / "a.parquet")


def test_missing_parquet_column_is_refused_with_the_columns(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet(body=["x"], id=[1]))
    with pytest.raises(UserError, match=r"has no field 'text'; it has: 'body', 'id'"):
        read(tmp_path / "a.parquet")
    with pytest.raises(UserError, match="'id' is int64, not text"):
        read(tmp_path / "a.parquet", field="id")
    assert read(tmp_path / "a.parquet", field="body") == ["x"]


def test_nul_and_invalid_bytes_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a" * 9000 + b"\0\xff\xfe z\xf0\x9f")
    counts = ReadCounts()
    assert read(tmp_path / "a.txt", counts) == ["a" * 9000 + "\0\ufffd\ufffd z\ufffd"]
    assert (counts.documents, counts.nul, counts.replaced) == (1, 1, 4)


def test_lone_surrogates_in_json_are_replaced_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "\\ud83e\\udd86 \\ud800"}\n{"text": ""}\n{"text": null}\n')
    counts = ReadCounts()
    assert read(tmp_path / "a.jsonl", counts) == ["🦆 \ufffd"]
    assert (counts.surrogates, counts.empty, counts.documents) == (1, 2, 1)


def test_nul_is_counted_in_json_and_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a\\u0000b\\u0000"}\n')
    (tmp_path / "a.parquet").write_bytes(parquet(text=["a\0b\0"]))
    for name in ("a.jsonl", "a.parquet"):
        counts = ReadCounts()
        assert read(tmp_path / name, counts) == ["a\0b\0"]
        assert counts.nul == 2


@pytest.mark.parametrize(
    "content", [b"", b"\xef\xbb\xbf", gzip.compress(b"", mtime=0), gzip.compress(b"\xef\xbb\xbf", mtime=0)]
)
def test_empty_file_is_counted_as_an_empty_document(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    counts = ReadCounts()
    assert read(tmp_path / "a", counts) == []
    assert counts == ReadCounts(empty=1)


def test_counts_of_several_readers_add_up() -> None:
    sum_ = ReadCounts(documents=1, nul=2)
    sum_.add(ReadCounts(documents=3, bytes=5))
    assert sum_ == ReadCounts(documents=4, bytes=5, nul=2)


@pytest.mark.parametrize("content", [b"\xff\xfeh\0i\0", "鴨".encode("utf-16"), b"PK\3\4\0\0"])
def test_utf16_and_binary_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"'a\.txt' is (UTF-16|a binary file)"):
        read(tmp_path / "a.txt")


def test_separator_gives_documents_named_by_offset(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\n\ntwo\n\n\nthree\n\n")
    found = formats.read_slice(Slice(describe("a", str(tmp_path / "a.txt"))), ReadOptions(separator="\n\n"))
    assert [(p.document, p.text) for p in found] == [("a@0", "one"), ("a@5", "two"), ("a@11", "three")]


@pytest.mark.parametrize("content", [b"a" * (64 << 20), b"ab " * (16 << 20), b"\n" * (64 << 20)])
def test_long_line_takes_little_memory(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(content, 1))
    source = describe("a", str(tmp_path / "a.gz"))
    length = len(content)
    del content
    tracemalloc.start()
    try:
        assert sum(len(chunk.text) for chunk in formats.read_slice(Slice(source))) == length
        assert sum(len(chunk.text) for chunk in formats.read_slice(Slice(source), ReadOptions(separator="\n"))) in (
            length,
            0,
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 32 << 20


def test_slices_can_be_pickled() -> None:
    part = formats.Slice(Input("a", "a", "txt"), 1, 2)
    assert pickle.loads(pickle.dumps(part)) == part  # noqa: S301 — our own


def test_long_json_documents_come_in_chunks(tmp_path: Path) -> None:
    text = "one word after another " * 7_000
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}))
    chunks = list(formats.read_slice(Slice(describe("a", str(tmp_path / "a.jsonl")))))
    assert [p.last for p in chunks] == [False, False, True]
    assert "".join(p.text for p in chunks) == text
    assert max(len(p.text) for p in chunks) < 1.1 * CHUNK_SIZE
