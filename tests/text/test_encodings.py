"""Encodings: guessed from the first bytes, always the same, and read as UTF-8."""

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.errors import UserError
from fledge.text import chunking, formats
from fledge.text.encodings import DecodedFile, guess_encoding, is_damaged, with_lf
from fledge.text.formats import SAMPLE
from fledge.text.inputs import ReadCounts, ReadOptions
from fledge.text.source_text import SourceText, open_sources

FRENCH = "Où étions-nous l’été dernier ? « À Paris », répondit-elle, émue.\n"
RUSSIAN = "Мой дядя самых честных правил, когда не в шутку занемог.\n"
JAPANESE = "吾輩は猫である。名前はまだ無い。\n"


@pytest.mark.parametrize(
    ("start", "encoding"),
    [
        (b"", "utf-8"),
        (b"plain", "utf-8"),
        (FRENCH.encode(), "utf-8"),
        (FRENCH.encode()[:-3] + "é".encode()[:1], "utf-8"),  # the sample may end inside a character
        (FRENCH.encode() * 50 + b"\xe9", "utf-8"),  # one bad byte among many good characters
        (FRENCH.encode("cp1252"), "cp1252"),
        (b"caf\xe9", "cp1252"),
        (b"a na\xefve caf\xe9 for 5 \x80\n" * 40, "cp1252"),
        ("Grüße aus Köln".encode("latin-1"), "cp1252"),
        (FRENCH.encode("utf-16"), "utf-16"),
        (b"\xfe\xff" + FRENCH.encode("utf-16-be"), "utf-16"),
        (FRENCH.encode("utf-32"), "utf-32"),
        (FRENCH.encode("utf-16-le"), "utf-16-le"),
        (FRENCH.encode("utf-16-be"), "utf-16-be"),
        (RUSSIAN.encode("cp1251"), None),
        (RUSSIAN.encode("koi8-r"), None),
        (JAPANESE.encode("shift_jis"), None),
        (JAPANESE.encode("gb18030"), None),
        (b"\x81\x8d not of any Western text", None),
        (b"\xe9\x01\x02\x03", None),
        (b"\0\0\0\0", "utf-8"),  # binary
        (bytes(range(256)), "utf-8"),
    ],
)
def test_guess_of_an_encoding(start: bytes, encoding: str | None) -> None:
    assert guess_encoding(start, whole=b"caf" in start) == encoding


@given(st.text())
def test_valid_utf8_is_always_utf8(text: str) -> None:
    start = text.replace("\0", "").encode("utf-8", "replace")
    assert guess_encoding(start) == "utf-8"
    assert not is_damaged(start, "utf-8")


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 9))
def test_decoded_file_is_utf8_for_any_reads(text: str, size: int) -> None:
    file = DecodedFile(io.BytesIO(text.encode("utf-16")), "utf-16")
    assert b"".join(iter(lambda: file.read(size), b"")).decode() == text


@given(st.text("ab\r\n", max_size=40))
def test_with_lf_equals_universal_newlines(text: str) -> None:
    assert with_lf(text) == io.TextIOWrapper(io.BytesIO(text.encode()), newline=None).read()


def opened(file: Path, content: bytes, options: ReadOptions | None = None) -> tuple[SourceText, list[str], ReadCounts]:
    file.write_bytes(content)
    text, counts = open_sources([str(file)], options), ReadCounts()
    return text, [chunk.text for chunk in text.chunks(counts)], counts


@pytest.mark.parametrize(
    ("codec", "name"), [("cp1252", "Windows-1252"), ("utf-16", "UTF-16"), ("utf-16-be", "UTF-16"), ("utf-32", "UTF-32")]
)
@pytest.mark.parametrize("ending", ["txt", "csv", "html", "jsonl"])
def test_file_in_another_encoding_is_read_and_named(tmp_path: Path, codec: str, name: str, ending: str) -> None:
    content = {
        "txt": FRENCH,
        "csv": f'text\r\n"{FRENCH}"\r\n',
        "html": f"<pre>{FRENCH}</pre>",
        "jsonl": json.dumps({"text": FRENCH}, ensure_ascii=False) + "\n",
    }[ending]
    text, texts, counts = opened(tmp_path / f"a.{ending}", content.encode(codec))
    assert [each.strip() for each in texts] == [FRENCH.strip()]
    assert text.files.encodings == {name: 1}
    assert text.files.line() == f"read 1 file (1 {ending}); 1 file read as {name}"
    assert (text.files.advice(), counts.replaced) == ([], 0)


def test_encoding_is_guessed_beyond_a_long_ascii_start(tmp_path: Path) -> None:
    text, texts, _ = opened(tmp_path / "a.txt", b"ASCII only.\n" * (SAMPLE // 12 + 10) + b"caf\xe9\n")
    assert text.files.encodings == {"Windows-1252": 1}
    assert texts[-1].endswith("café\n")


def test_unknown_encoding_is_reported_by_file(tmp_path: Path) -> None:
    text, _, counts = opened(tmp_path / "a.txt", RUSSIAN.encode("koi8-r"))
    assert counts.replaced > 20
    assert "a.txt" in text.files.advice()[0]
    assert "--data.encoding" in text.files.advice()[1]


@pytest.mark.parametrize(("codec", "content"), [("koi8-r", RUSSIAN), ("shift_jis", JAPANESE), ("utf-16-le", RUSSIAN)])
def test_named_encoding_is_used(tmp_path: Path, codec: str, content: str) -> None:
    text, texts, _ = opened(tmp_path / "a.txt", content.encode(codec), ReadOptions(encoding=codec))
    assert texts == [content]
    assert text.files.advice() == []


def test_strict_reading_allows_utf8_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not UTF-8"):
        opened(tmp_path / "a.txt", FRENCH.encode("cp1252"), ReadOptions(errors="strict"))


@pytest.mark.parametrize(
    ("codec", "content", "what"),
    [
        ("cp1252", b"caf\xe9 \xe9\xe9\x81 \x8d", "Windows-1252: byte 7 is 0x81"),
        ("utf-16-le", "Où".encode("utf-16-le") + b"\x00\xdc", "UTF-16: byte 4 is 0x00"),
        ("utf-16-le", "Où".encode("utf-16-le") + b"a", "UTF-16: byte 4 is 0x61"),
        ("shift_jis", JAPANESE.encode("shift_jis") + b"\x81\n", "shift_jis: byte 33 is 0x81"),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_strict_reading_names_the_stored_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, content: bytes, what: str, size: int
) -> None:
    monkeypatch.setattr(chunking, "READ_SIZE", size)
    with pytest.raises(UserError, match=what) as caught:
        opened(tmp_path / "a.txt", content, ReadOptions(errors="strict", encoding=codec))
    assert "--data.encoding NAME" in str(caught.value.hint)


@pytest.mark.parametrize("codec", ["utf-8", "utf-16", "utf-16-le"])
def test_replacement_character_of_the_text_is_valid(tmp_path: Path, codec: str) -> None:
    text, texts, counts = opened(tmp_path / "a.txt", "plain text with a \ufffd".encode(codec))
    assert (texts, counts.replaced, text.files.invalid) == (["plain text with a \ufffd"], 0, [])


def test_damaged_files_are_named_relative_to_their_source(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("in/a.txt", "b.txt"):
        (tmp_path / name).write_bytes(FRENCH.encode() + b"\xff")
    assert open_sources([str(tmp_path)]).files.invalid == ["b.txt", "in/a.txt"]
    assert open_sources([str(tmp_path / "in" / "a.txt")]).files.invalid == ["a.txt"]


@pytest.mark.parametrize("codec", ["utf-8", "utf-16"])
@pytest.mark.parametrize("separator", ["\n\n", "\n"])
def test_separator_is_found_between_lines_of_windows(tmp_path: Path, codec: str, separator: str) -> None:
    content = separator.join(["one", "two", "three"]).replace("\n", "\r\n")
    _, texts, _ = opened(tmp_path / "a.txt", content.encode(codec), ReadOptions(separator=separator))
    assert texts == ["one", "two", "three"]


def test_windows_lines_of_exactly_one_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "SAMPLE", 8)
    assert opened(tmp_path / "a.txt", b"a\r\n\r\nbcd", ReadOptions(separator="\n\n"))[1] == ["a", "bcd"]


def test_strict_reading_finds_windows_lines(tmp_path: Path) -> None:
    options = ReadOptions(separator="\n\n", errors="strict")
    assert opened(tmp_path / "a.txt", b"a\r\n\r\nb", options)[1] == ["a", "b"]


def test_newlines_are_kept_on_request(tmp_path: Path) -> None:
    for newlines, expected in (("lf", "a\nb\nc"), ("keep", "a\r\nb\rc")):
        assert opened(tmp_path / "a.txt", b"a\r\nb\rc", ReadOptions(newlines=newlines))[1] == [expected]  # type: ignore[arg-type]
