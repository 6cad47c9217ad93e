"""A server on this machine that plays the Hub and any other remote, good and bad."""

import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

PAGE = 2  # files a page of a list


@dataclass
class File:
    """What is served at a path. `moods` are used up one a request: 503, 'stall', 'half', 'deaf' to ranges, …"""

    content: bytes
    etag: str = '"1"'
    moods: list[str] = field(default_factory=list)
    large: bool = True
    announced: int | None = None
    hash: str = ""


class Remote(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 32

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, File] = {}  # by path in the repository 'o/n', or by any other path
        self.asked: list[tuple[str, str]] = []  # path, Range
        self.released = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Remote

    def do_GET(self) -> None:
        where = urlsplit(self.path)
        path, range_ = unquote(where.path), self.headers.get("Range", "")
        self.server.asked.append((path, range_))
        if tree := re.match("/api/(datasets|models)/o/n/tree/", path):
            self.tree(path[tree.end() :], parse_qs(where.query))
        else:
            self.file(re.sub("^(/datasets)?/o/n/resolve/main/", "", path), range_)

    def tree(self, rest: str, query: dict[str, list[str]]) -> None:
        revision, _, folder = rest.partition("/")
        if revision != "main":
            return self.plain(404, b"{}")
        paths = sorted(p for p in self.server.files if p.startswith(folder))
        if not paths:
            return self.plain(404, b"{}")
        start = int(query.get("cursor", ["0"])[0])
        page = [{"type": "directory", "oid": "0", "size": 0, "path": "some"}] if start == 0 else []
        for path in paths[start : start + PAGE]:
            page.append(entry(path, self.server.files[path]))
        more = start + PAGE < len(paths)
        link = f'<{self.server.address}{urlsplit(self.path).path}?recursive=true&cursor={start + PAGE}>; rel="next"'
        self.plain(200, json.dumps(page).encode(), {"Link": link} if more else {})
        return None

    def file(self, path: str, range_: str) -> None:
        file = self.server.files.get(path)
        if file is None:
            return self.plain(404, b"no")
        mood = file.moods.pop(0) if file.moods else ""
        if mood.isdigit():
            return self.plain(int(mood), b"", {"Retry-After": "0"})
        if mood == "silent":
            self.close_connection = True
            return None
        start, status, headers = 0, 200, {"ETag": file.etag} if file.etag else {}
        if range_ and mood != "deaf" and self.headers.get("If-Range") == file.etag:
            start, status = int(range_.removeprefix("bytes=").rstrip("-")), 206
            headers["Content-Range"] = f"bytes {start}-{len(file.content) - 1}/{len(file.content)}"
        body = file.content[start:]
        cut = len(body) // 2 if mood in ("half", "stall") else len(body)
        self.plain(status, body[:cut], headers, announced=len(body))
        if mood == "stall":
            self.wfile.flush()
            self.server.released.wait(20)
        if cut < len(body):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        return None

    def plain(self, status: int, body: bytes, headers: dict[str, str] | None = None, announced: int = -1) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if announced < 0 else announced))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


def entry(path: str, file: File) -> dict[str, object]:
    size = len(file.content) if file.announced is None else file.announced
    blob = hashlib.sha1(b"blob %d\0" % len(file.content) + file.content, usedforsecurity=False).hexdigest()
    listed: dict[str, object] = {"type": "file", "oid": blob, "size": size, "path": path}
    if file.large:
        sha256 = file.hash or hashlib.sha256(file.content).hexdigest()
        listed["lfs"] = {"oid": sha256, "size": size, "pointerSize": 130}
    return listed


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Remote]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    server = Remote()
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()
