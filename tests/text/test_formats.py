"""One file → documents."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.base.errors import UserError
from fledge.text.formats import Document, is_text, read_file


def test_a_file_is_one_document_with_every_character_as_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("Käse\r\n\n\tend ".encode())
    assert list(read_file(file)) == [Document(str(file), "Käse\r\n\n\tend ")]


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfhello")
    assert [d.text for d in read_file(file)] == ["hello"]


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"])
def test_an_empty_file_holds_no_document(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    assert list(read_file(tmp_path / "a.txt")) == []


def test_a_binary_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"text\0text")
    assert not is_text(tmp_path / "a.bin")
    with pytest.raises(UserError, match=r"a\.bin' is a binary file"):
        list(read_file(tmp_path / "a.bin"))


def test_what_is_not_utf8_is_refused_with_the_byte_and_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("grün".encode("latin1"))
    with pytest.raises(UserError, match=r"a\.txt' is not UTF-8: byte 2 is 0xfc") as caught:
        list(read_file(tmp_path / "a.txt"))
    assert "iconv" in caught.value.hint


@given(st.text(min_size=1).filter(lambda text: "\0" not in text and text[0] != "\ufeff"))
def test_any_text_comes_back_unchanged(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any.txt"
    file.write_bytes(text.encode())
    assert [d.text for d in read_file(file)] == [text]
