import asyncio
import contextlib
import logging
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from fledge.core.errors import UserError
from fledge.web.access import Access, is_loopback, known_origins
from fledge.web.serving import Server, bind, read_token, url_of

OPEN = "0.0.0.0"  # noqa: S104


@pytest.mark.parametrize("header", ["localhost", "LOCALHOST:80", "127.0.0.1:8000", "[::1]:1", "127.9.9.9", "my.name:1"])
def test_hosts_of_this_machine_are_allowed(header: str) -> None:
    assert Access(hosts=frozenset({"My.Name"})).allows_host(header)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "evil.com",
        "localhost.evil.com",
        "127.0.0.1.evil.com",
        "evil.com:127.0.0.1",
        "10.0.0.1",
        "[::1",
        "a@b",
        "2130706433",
    ],
)
def test_other_hosts_are_refused(header: str) -> None:
    assert not Access().allows_host(header)


def test_a_server_for_other_machines_answers_to_addresses_and_its_own_name() -> None:
    access = Access(OPEN)
    assert access.allows_host("10.0.0.1:8000")
    assert access.allows_host(os.uname().nodename)
    assert not access.allows_host("evil.com")


def test_origins() -> None:
    access = Access(origins=known_origins(["http://ui.example/"]))
    assert access.allows_origin(None, "localhost:8000")
    assert access.allows_origin("http://localhost:8000", "localhost:8000")
    assert access.allows_origin("http://ui.example", "localhost:8000")
    for other in ("http://localhost:9000", "https://ui.example", "http://ui.example.evil.com", "null", ""):
        assert not access.allows_origin(other, "localhost:8000"), other


def test_loopback() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "::1")))
    assert not any(map(is_loopback, (OPEN, "10.1.1.1", "10.0.0.1", "example.org")))


def test_token_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "token"
    assert read_token(None, "127.0.0.1") is None
    with pytest.raises(UserError, match="needs a token"):
        read_token(None, OPEN)
    for content in ("", "short", "two words of a sentence", "ä" * 20, "a\nb" * 10):
        file.write_text(content)
        with pytest.raises(UserError, match="holds no token"):
            read_token(file, OPEN)
    file.write_text("0123456789abcdef\n")
    file.chmod(0o644)
    assert read_token(file, OPEN) == "0123456789abcdef"
    assert "chmod 600" in capsys.readouterr().err
    file.chmod(0o600)
    read_token(file, OPEN)
    assert not capsys.readouterr().err


def test_bind() -> None:
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert url_of(listener, "127.0.0.1") == f"http://127.0.0.1:{port}"
        assert url_of(listener, "::1") == f"http://[::1]:{port}"
        with pytest.raises(UserError, match="is in use"):
            bind("127.0.0.1", port)
    for host, port in (("127.0.0.1", 70000), ("no.such.host.invalid", 0), ("192.0.2.1", 0)):
        with pytest.raises(UserError):
            bind(host, port)


def test_requests_cut_off_at_the_end_leave_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            begun.set()
            await asyncio.sleep(60)

    begun, ready = threading.Event(), threading.Event()
    with bind("127.0.0.1", 0) as listener:
        server = Server(app, ready.set)
        server.config.timeout_graceful_shutdown = 1
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        assert ready.wait(30)
        with socket.create_connection(listener.getsockname()) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert begun.wait(30)
            server.stop()
            thread.join(30)
    assert "Traceback" not in caplog.text
    assert "timeout graceful shutdown exceeded" in caplog.text


def test_a_server_leaves_the_log_handlers_of_the_process_alone(tmp_path: Path) -> None:
    handler = logging.FileHandler(tmp_path / "log")
    with contextlib.closing(handler):
        Server(lambda *_: None, lambda: None)
        assert not handler.stream.closed
