"""A local HTTP server that imitates the Hub and any other server, well-behaved and not."""

import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

BEARER = "Bearer hf_right"
PAGE = 2  # files per page of a listing
API = re.compile(
    r"/api/(?:datasets|models)/(?P<repo>[^/]+/[^/]+)/(?P<call>revision|tree)/(?P<revision>[^/]+)/?(?P<folder>.*)"
)
RESOLVE = re.compile(r"(?:/datasets)?/o/n/resolve/[^/]+/")


@dataclass
class File:
    """What is served at a path.

    `faults` are used up one per request: a status such as '503', 'silent', 'half', 'stall', 'ignore range'.
    `redirect`: another server that has the content, as the Hub redirects to its CDN.
    """

    content: bytes
    etag: str = '"1"'
    faults: list[str] = field(default_factory=list)
    large: bool = True
    announced_size: int | None = None
    announced_hash: str = ""
    redirect: str = ""

    @property
    def sha256(self) -> str:
        return self.announced_hash or hashlib.sha256(self.content).hexdigest()

    @property
    def blob(self) -> str:
        header = b"blob %d\0" % len(self.content)
        return self.announced_hash or hashlib.sha1(header + self.content, usedforsecurity=False).hexdigest()


class Remote(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 32

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, File] = {}  # by path in the repository 'o/n', or by any other path
        self.gated = False  # the repository needs the token 'hf_right'
        self.asked: list[tuple[str, str]] = []  # path and Range of each GET
        self.tokens: list[str] = []  # Authorization of each request, '' without
        self.released = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def commit(self) -> str:
        facts = sorted((path, file.content, file.announced_hash) for path, file in self.files.items())
        return hashlib.sha1(repr(facts).encode(), usedforsecurity=False).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Remote

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        where = urlsplit(self.path)
        path, token = unquote(where.path), self.headers.get("Authorization", "")
        self.server.tokens.append(token)
        if self.command == "GET":
            self.server.asked.append((path, self.headers.get("Range", "")))
        call = API.fullmatch(where.path)
        if self.server.gated and token != BEARER and (call or RESOLVE.match(path)):
            self.reply(403 if token else 401, b"{}", {"X-Error-Code": "GatedRepo"})
        elif call:
            self.api(call, parse_qs(where.query))
        else:
            self.file(RESOLVE.sub("", path), is_hub=bool(RESOLVE.match(path)))

    def api(self, call: re.Match[str], query: dict[str, list[str]]) -> None:
        revision, folder = unquote(call["revision"]), unquote(call["folder"])
        if call["repo"] != "o/n":
            return self.reply(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        if revision not in ("main", self.server.commit):
            return self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if call["call"] == "revision":
            return self.reply(200, json.dumps({"id": "o/n", "sha": self.server.commit}).encode())
        paths = sorted(path for path in self.server.files if path.startswith(folder))
        if not paths:
            return self.reply(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        start = int(query.get("cursor", ["0"])[0])
        page = [{"type": "directory", "oid": "0", "size": 0, "path": "some"}] if start == 0 else []
        page += [listed(path, self.server.files[path]) for path in paths[start : start + PAGE]]
        next_page = f"{self.server.address}{urlsplit(self.path).path}?recursive=true&cursor={start + PAGE}"
        headers = {"Link": f'<{next_page}>; rel="next"'} if start + PAGE < len(paths) else {}
        return self.reply(200, json.dumps(page).encode(), headers)

    def file(self, path: str, is_hub: bool) -> None:
        file = self.server.files.get(path)
        if file is None:
            return self.reply(404, b"no", {"X-Error-Code": "EntryNotFound"})
        fault = file.faults.pop(0) if file.faults else ""
        if fault.isdigit():
            return self.reply(int(fault), b"", {"Retry-After": "0"})
        if fault == "silent":
            self.close_connection = True
            return None
        headers = {"ETag": f'"{file.sha256 if file.large else file.blob}"' if is_hub else file.etag}
        if is_hub:
            headers |= {"X-Repo-Commit": self.server.commit, "X-Linked-Size": str(size_of(file))}
        if file.redirect:
            return self.reply(302, b"", {**headers, "Location": file.redirect})
        start, status = 0, 200
        range_ = self.headers.get("Range", "")
        if range_ and fault != "ignore range" and self.headers.get("If-Range", file.etag) == file.etag:
            start, status = int(range_.removeprefix("bytes=").rstrip("-")), 206
            headers["Content-Range"] = f"bytes {start}-{len(file.content) - 1}/{len(file.content)}"
        body = file.content[start:]
        end = len(body) // 2 if fault in ("half", "stall") else len(body)
        self.reply(status, body[:end], {name: value for name, value in headers.items() if value}, length=len(body))
        if fault == "stall":
            self.wfile.flush()
            self.server.released.wait(20)
        if end < len(body):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        return None

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None, length: int = -1) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length < 0 else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


def size_of(file: File) -> int:
    return len(file.content) if file.announced_size is None else file.announced_size


def listed(path: str, file: File) -> dict[str, object]:
    """The entry of a file in a listing."""
    entry: dict[str, object] = {"type": "file", "oid": file.blob, "size": size_of(file), "path": path}
    if file.large:
        entry["lfs"] = {"oid": file.sha256, "size": size_of(file), "pointerSize": 130}
    return entry


@contextmanager
def serving() -> Iterator[Remote]:
    server = Remote()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Remote]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server


@pytest.fixture
def other_host() -> Iterator[Remote]:
    """A second server: another host for everything that compares host and port."""
    with serving() as server:
        yield server
