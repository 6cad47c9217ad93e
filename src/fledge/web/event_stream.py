"""Server-sent events to a client that reads them; one that leaves, or does not read for SEND_SECONDS, is cut off."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from typing import Any

from fastapi.sse import EventSourceResponse
from starlette.types import Message, Receive, Scope, Send

from fledge.core import fast_json

SEND_SECONDS = 60.0
PING_SECONDS = 15.0  # a comment in an idle stream: proxies close connections without traffic
PING = b": ping\n\n"


class EventStream(EventSourceResponse):
    """The answer of a route. `resources` are released when the last event is sent, and when the client is gone."""

    def __init__(self, content: AsyncIterator[bytes], resources: AbstractContextManager[object]) -> None:
        super().__init__(content)
        self._resources = resources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(SEND_SECONDS):
                await send(message)

        with self._resources, contextlib.suppress(TimeoutError):
            await super().__call__(scope, receive, send_in_time)


def event(data: dict[str, Any], name: str = "") -> bytes:
    """One event; without a name it is a `message`."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + fast_json.dumps(data) + b"\n\n"
