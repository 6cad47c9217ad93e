"""The corpora that have a name, and how one is fetched."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fledge.base.errors import UserError
from fledge.text import corpora
from fledge.text.corpora import CORPORA, download, find

BODY = b"To be, or not to be\n" * 50
HASH = hashlib.sha256(BODY).hexdigest()


class Remote(BaseHTTPRequestHandler):
    """What a remote may answer: the text, another text, half of it, a refusal, or nothing at all."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        if self.path == "/gone":
            self.send_error(404)
        elif self.path != "/silent":
            self.send_response(200)
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            self.wfile.write({"/good": BODY, "/other": BODY[::-1], "/half": BODY[:100]}[self.path])

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    monkeypatch.setenv("no_proxy", "*")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Remote)
    server.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def address(remote: ThreadingHTTPServer, path: str) -> str:
    return f"http://127.0.0.1:{remote.server_port}{path}"


def test_a_download_is_kept_and_not_fetched_again(remote: ThreadingHTTPServer, tmp_path: Path) -> None:
    target = tmp_path / "downloads" / "text"
    for _ in range(2):
        assert download(address(remote, "/good"), HASH, target).read_bytes() == BODY
    assert remote.asked == ["/good"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", ["/other", "/half", "/gone", "/silent"])
def test_a_download_that_goes_wrong_is_refused_by_address_and_leaves_nothing(
    remote: ThreadingHTTPServer, tmp_path: Path, path: str
) -> None:
    with pytest.raises(UserError) as caught:
        download(address(remote, path), HASH, tmp_path / "text")
    assert address(remote, path) in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there_is_refused_with_a_way_round(remote: ThreadingHTTPServer, tmp_path: Path) -> None:
    url = address(remote, "/good")
    remote.server_close()
    remote.socket.close()
    with pytest.raises(UserError) as caught:
        download(url.replace(str(remote.server_port), "1"), HASH, tmp_path / "text")
    assert "give its path" in caught.value.hint


def test_shakespeare_is_read_from_what_was_downloaded_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path))
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "shakespeare.txt").write_text("First Citizen:\n")
    assert [d.text for d in find("shakespeare").documents()] == ["First Citizen:\n"]


def test_every_corpus_says_where_it_comes_from_and_under_which_licence() -> None:
    for name, corpus in CORPORA.items():
        assert corpus.name == name
        assert all((corpus.about, corpus.origin, corpus.size, corpus.licence, corpus.version()))


def test_an_unknown_corpus_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UserError) as caught:
        find("pyhton")
    assert "'python'" in caught.value.hint


@pytest.fixture(scope="module")
def library() -> list[corpora.Document]:
    return list(CORPORA["python"].documents())


def test_the_python_corpus_is_the_library_in_a_fixed_order_without_its_tests(
    library: list[corpora.Document],
) -> None:
    names = [d.name for d in library]
    assert names == sorted(names, key=lambda name: name.split("/"))
    assert {"argparse.py", "pydoc_data/topics.py", "json/decoder.py"} <= set(names)
    assert not any(corpora.SKIPPED.intersection(name.split("/")) for name in names)


def test_the_python_corpus_is_millions_of_characters(library: list[corpora.Document]) -> None:
    assert sum(len(d.text) for d in library) > 5_000_000
