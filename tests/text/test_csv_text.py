"""CSV and TSV: quoting, columns, compression, and files that are broken."""

import csv
import gzip
import io
import pickle
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.errors import UserError
from fledge.text import chunking, csv_text, formats
from fledge.text.formats import describe
from fledge.text.inputs import ReadCounts, ReadOptions, Slice


def read(file: Path, counts: ReadCounts | None = None, **options: str) -> list[str]:
    found = formats.read_slice(Slice(describe(file.name, str(file))), ReadOptions(**options), counts)  # type: ignore[arg-type]
    return [document.text for document in formats.join_chunks(found)]


def refusal(tmp_path: Path, content: bytes, **options: str) -> UserError:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(tmp_path / "a.csv", **options)
    return caught.value


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.csv", b"text\none\ntwo\n", ["one", "two"]),
        ("a.csv", b"id,text\n1,one\n2,two", ["one", "two"]),
        ("a.csv", b"\xef\xbb\xbftext,id\none,1\n", ["one"]),
        ("a.CSV", b'id,"text"\r\n1,"a, b"\r\n', ["a, b"]),
        ("a.csv", b'id,text\n1,"two\nlines, ""quoted"""\n2,"\n\n"\n', ['two\nlines, "quoted"', "\n\n"]),
        ("a.csv", b"id,text\n\n1,one\n\n", ["one"]),
        ("a.csv", b"text,text\none,two\n", ["one"]),
        ("a.tsv", b'id\ttext\n1\ta, b\n2\t"a\tb"\n', ["a, b", "a\tb"]),
        ("a.csv.gz", gzip.compress(b"text\none\n", mtime=0), ["one"]),
        ("a.tsv.gz", gzip.compress(b"id\ttext\n1\tone\n", mtime=0), ["one"]),
    ],
)
def test_one_column_gives_the_documents(tmp_path: Path, name: str, content: bytes, texts: list[str]) -> None:
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path / name) == texts


@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0")), st.text("ab"))))
def test_any_text_written_by_the_csv_module_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    file, held = tmp_path_factory.getbasetemp() / "any.csv", io.StringIO()
    writer = csv.writer(held, lineterminator="\n")
    writer.writerows([("text", "other"), *rows])
    file.write_bytes(held.getvalue().encode())
    assert read(file) == [text for text, _ in rows if text]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_block_size_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(chunking, "READ_SIZE", size)
    (tmp_path / "a.csv").write_bytes('id,text\n1,"Käse,\n🦆"\n2,zwei\n'.encode())
    assert read(tmp_path / "a.csv") == ["Käse,\n🦆", "zwei"]


def test_field_names_the_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"title,body\none,two\n")
    assert read(tmp_path / "a.csv", field="body") == ["two"]


def test_documents_are_named_by_the_offset_of_their_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'text\n"one\nmore"\n\ntwo\n')
    found = formats.read_slice(Slice(describe("a.csv", str(tmp_path / "a.csv"))))
    assert [chunk.document for chunk in found] == ["a.csv@5", "a.csv@17"]


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\n\n"])
def test_file_without_header_is_an_empty_document(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    counts = ReadCounts()
    assert read(tmp_path / "a.csv", counts) == []
    assert counts == ReadCounts(empty=1)


def test_empty_fields_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'id,text\n1,\n2,""\n3,one\n')
    counts = ReadCounts()
    assert read(tmp_path / "a.csv", counts) == ["one"]
    assert (counts.empty, counts.documents) == (2, 1)


def test_bytes_that_are_not_utf8_are_replaced_or_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text\ngr\xfcn\n")
    counts = ReadCounts()
    assert read(tmp_path / "a.csv", counts) == ["gr\ufffdn"]
    assert counts.replaced == 1
    with pytest.raises(UserError, match="is not UTF-8: byte 7 is 0xfc"):
        read(tmp_path / "a.csv", errors="strict")


def test_missing_column_is_refused_with_the_columns(tmp_path: Path) -> None:
    error = refusal(tmp_path, b"id,body\n1,one\n")
    assert error.message == "'a.csv' has no field 'text'; it has: 'id', 'body'"
    assert "--data.field" in error.hint


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (b'3,"never closed\nand more\n', "line 5 cannot be parsed"),
        (b'3,"closed" too early\n', "line 5 cannot be parsed"),
        (b"3,one,two\n", "line 5 has 3 fields, and the header has 2"),
        (b"3\n", "line 5 has 1 fields, and the header has 2"),
    ],
    ids=["unclosed quote", "text after quote", "too many", "too few"],
)
def test_broken_row_is_refused_by_its_line(tmp_path: Path, row: bytes, words: str) -> None:
    error = refusal(tmp_path, b'id,text\n1,"a\nb"\n2,c\n' + row)
    assert f"'a.csv' {words}" in error.message
    assert "quote" in error.hint


def test_unclosed_quote_is_refused_before_it_fills_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_text, "TEXT_LIMIT", 1 << 20)
    (tmp_path / "a.csv").write_bytes(b'text\n"' + (b"x" * 99 + b"\n") * (300_000))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="line 2 cannot be parsed: field larger than field limit"):
            read(tmp_path / "a.csv")
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("content", [b"text\n\0\1\2", "text\nx".encode("utf-16"), b"PK\3\4\0\0"])
def test_binary_content_is_refused(tmp_path: Path, content: bytes) -> None:
    assert "binary file" in (message := refusal(tmp_path, content).message) or "UTF-16" in message


def test_file_is_one_slice_that_other_processes_can_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text\n" + b'"a\nb"\n' * 1000)
    source = describe("a.csv", str(tmp_path / "a.csv"))
    (only,) = formats.slice_input(source, 10)
    assert list(formats.read_slice(pickle.loads(pickle.dumps(only)))) == list(formats.read_slice(Slice(source)))  # noqa: S301
    assert formats.sizes_known(source, ReadOptions())
