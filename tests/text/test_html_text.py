"""HTML as text: what is removed, what is decoded, and where lines break."""

import contextlib
import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.errors import UserError
from fledge.text import formats, html_text
from fledge.text.formats import describe
from fledge.text.html_text import html_to_text
from fledge.text.inputs import ReadCounts, ReadOptions, Slice


def read(file: Path, counts: ReadCounts | None = None, **options: str) -> list[str]:
    found = formats.read_slice(Slice(describe(file.name, str(file))), ReadOptions(**options), counts)  # type: ignore[arg-type]
    return [document.text for document in formats.join_chunks(found)]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("just text", "just text"),
        ("<p>one <b>bold</b> word</p><p>two</p>", "one bold word\ntwo"),
        ("  one\n  \t two  ", "one two"),
        ("one<br>two<br/>three", "one\ntwo\nthree"),
        ("<ul><li>a<li>b</ul>after", "a\nb\nafter"),
        ("<h1>Title</h1>text<div>inner</div>more", "Title\ntext\ninner\nmore"),
        ("<table><tr><td>a</td><td>b</td></tr><tr><th>c</th></tr></table>", "a b\nc"),
        ("<pre>  two\n    lines</pre>and text", "  two\n    lines\nand text"),
        ("Fish &amp; Chips &lt;3 &eacute;&#233;&#xe9; &unknown;", "Fish & Chips <3 ééé &unknown;"),
        ("a<script>if (1 < 2) { document.write('<p>x</p>') }</script>b", "ab"),
        ("<style>p > b { color: red }</style>text", "text"),
        ("<template><p>hidden</p></template><noscript>enable it</noscript>text", "text"),
        ("text<!-- a comment <p> -->more", "textmore"),
        ("<!DOCTYPE html><html><head><title>T</title></head><body>B</body></html>", "T\nB"),
        ("<P CLASS='x'>upper</P>", "upper"),
        ("<p>never closed <b>at all", "never closed at all"),
        ("</script></pre></p>stray ends", "stray ends"),
        ("a < b and <", "a < b and <"),
        ("", ""),
        ("<p> </p>", ""),
    ],
)
def test_html_to_text(content: str, text: str) -> None:
    assert html_to_text(content) == text


@given(st.text("<>!-/[]&;a \n\"'=pscrit", max_size=60))
def test_any_content_gives_text_or_a_user_error(content: str) -> None:
    with contextlib.suppress(UserError):
        assert isinstance(html_to_text(content), str)


@pytest.mark.parametrize("name", ["a.html", "a.htm", "a.HTML", "a.html.gz"])
def test_a_file_is_one_document(tmp_path: Path, name: str) -> None:
    content = "\ufeff<p>Käse</p>".encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert read(tmp_path / name) == ["Käse"]


def test_long_page_comes_in_chunks_of_known_size(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<p>one word after another</p>" * 7_000)
    source = describe("a.html", str(tmp_path / "a.html"))
    chunks = list(formats.read_slice(Slice(source)))
    assert len(chunks) > 2
    assert {chunk.size for chunk in chunks} == {chunks[-1].end}
    assert len(formats.slice_input(source, 10)) == 1


def test_page_without_text_is_counted_as_empty(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<script>x</script>")
    counts = ReadCounts()
    assert read(tmp_path / "a.html", counts) == []
    assert counts == ReadCounts(empty=1)


@pytest.mark.parametrize("content", [b"<p>\0</p>", "<p>x</p>".encode("utf-16")])
def test_binary_content_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.html").write_bytes(content)
    with pytest.raises(UserError, match=r"'a\.html' is (UTF-16|a binary file)"):
        read(tmp_path / "a.html")


def test_bytes_that_are_not_utf8_are_replaced_or_refused(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_bytes(b"<p>gr\xfcn</p>")
    assert read(tmp_path / "a.html") == ["gr\ufffdn"]
    with pytest.raises(UserError, match="is not UTF-8: byte 5 is 0xfc"):
        read(tmp_path / "a.html", errors="strict")


def test_page_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html_text, "TEXT_LIMIT", 1000)
    (tmp_path / "a.html").write_text("x" * 1001)
    with pytest.raises(UserError, match="is longer than"):
        read(tmp_path / "a.html")
