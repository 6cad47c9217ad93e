"""Run an app in this process until a stop signal: the socket, uvicorn, and an orderly end."""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from fledge.core.errors import UserError
from fledge.core.progress import notice
from fledge.core.signals import on_stop_signal
from fledge.web.access import is_loopback

DRAIN_SECONDS = 8  # from the first stop signal until running requests are cut off
KEEP_ALIVE_SECONDS = 65  # an idle connection; longer than most clients keep one
HEADER_SECONDS = 30.0
BACKLOG = 2048
MIN_TOKEN_LENGTH = 16
HOW_TO_MAKE_ONE = "python -c 'import secrets; print(secrets.token_urlsafe())' > FILE; chmod 600 FILE"


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0: any free one."""
    if not 0 <= port < 65536:
        raise UserError(f"--port cannot be {port}", "use a number from 1 to 65535, or 0 for any free port")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError):
        raise UserError(f"--host cannot be '{host}'", "use an address of this machine, such as 127.0.0.1") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} is in use", "choose another with --port, or 0 for any free one") from None
        hint = "use an address of this machine, and a port from 1024 up"
        raise UserError(f"cannot listen on {host}, port {port}: {os.strerror(error.errno or 0)}", hint) from None
    return listener


def url_of(listener: socket.socket, host: str) -> str:
    """What a client calls."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def read_token(file: Path | None, host: str) -> str | None:
    """The token in a file. Without one, only this machine may call the server."""
    if file is None:
        if not is_loopback(host):
            message = f"other machines could call a server on {host}, so it needs a token"
            raise UserError(message, f"make one and add --token-file FILE: {HOW_TO_MAKE_ONE}")
        return None
    token = file.read_text(errors="replace").strip()
    if len(token) < MIN_TOKEN_LENGTH or not token.isascii() or not token.isprintable() or " " in token:
        message = f"'{file}' holds no token: one line of at least {MIN_TOKEN_LENGTH} characters without spaces"
        raise UserError(message, f"make one: {HOW_TO_MAKE_ONE}")
    if file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        notice(f"warning: other users of this machine can read '{file}'; chmod 600 '{file}' prevents it")
    return token


class Connection(H11Protocol):
    """Closes a connection where the headers of a request do not arrive in time; uvicorn would wait for ever."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._cancel()

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._cancel()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Server(uvicorn.Server):
    """Answers requests until `stop` is called; then finishes those that run. `run(sockets=[listener])` starts it.

    ready: called once, when requests are answered. stopping: called by `stop`, to end streams that have no end.
    """

    def __init__(self, app: ASGIApp, ready: Callable[[], None], stopping: Callable[[], None] = lambda: None) -> None:
        self._ready, self._stopping = ready, stopping
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http=Connection,
            ws="none",
            log_config=None,  # uvicorn's own closes the log handlers of the whole process
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
        super().__init__(config)
        logging.getLogger("uvicorn.error").addFilter(is_defect)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """fledge.core.signals handles them."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        notice("stopping: running requests are finished first; press Ctrl-C again to stop immediately")
        await super().shutdown(sockets)

    def stop(self) -> None:
        self.should_exit = True
        self._stopping()


def is_defect(record: logging.LogRecord) -> bool:
    """False for the traceback of a request that was cut off after DRAIN_SECONDS; another line tells how many were."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def serve(
    app: ASGIApp, listener: socket.socket, ready: Callable[[], None], stopping: Callable[[], None] = lambda: None
) -> None:
    """Run a `Server` until SIGINT or SIGTERM, which is raised as KeyboardInterrupt when all requests are finished."""
    server = Server(app, ready, stopping)
    with on_stop_signal(server.stop):
        server.run(sockets=[listener])
