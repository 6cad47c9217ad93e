"""Read the body of a request before the app sees it: at most so many bytes, within so many seconds."""

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fledge.web.errors import ApiError

MAX_BYTES = 8 << 20
MAX_SECONDS = 30.0  # a client that sends nothing would hold a connection for ever
CLOSE = {"Connection": "close"}  # what remains of the body is not read


class BodyLimit:
    def __init__(self, app: ASGIApp, max_bytes: int = MAX_BYTES, max_seconds: float = MAX_SECONDS) -> None:
        self._app, self._max_bytes, self._max_seconds = app, max_bytes, max_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._max_seconds):
                body = await self._read(Headers(scope=scope).get("content-length", "0"), receive)
        except TimeoutError:
            error = ApiError(408, f"the body did not arrive within {self._max_seconds:g} seconds", headers=CLOSE)
            await error.response()(scope, receive, send)
        except ApiError as error:
            await error.response()(scope, receive, send)
        else:
            if body is not None:
                await self._app(scope, _replay(body, receive), send)

    async def _read(self, declared: str, receive: Receive) -> bytes | None:
        """None: the client is gone."""
        body = bytearray()
        too_large = ApiError(413, f"the body is larger than {self._max_bytes:,} bytes", headers=CLOSE)
        if declared.isdigit() and int(declared) > self._max_bytes:
            raise too_large
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self._max_bytes:
                raise too_large
            if not message.get("more_body"):
                return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body, then whatever comes: the client leaves, for one."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
