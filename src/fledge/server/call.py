"""One call of a client: its job, the answer as one document or as server-sent events, and what remains of it.

A client that leaves gives its slots back at once.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request as HttpRequest
from fastapi import Response

from fledge.core import fast_json
from fledge.inference.request import Chunk, Request
from fledge.server.metrics import Metrics
from fledge.server.models import ServedModel
from fledge.web.errors import ApiError
from fledge.web.event_stream import PING, PING_SECONDS, EventStream, event
from fledge.web.worker import Job

DONE = b"data: [DONE]\n\n"
FAILED = ("error", "cancelled")
Events = Callable[[Job, int, Chunk], Iterator[dict[str, Any]]]  # of a chunk of one of the texts


@dataclass
class Call:
    http: HttpRequest
    model: ServedModel
    kind: str  # cmpl or chatcmpl
    requests: Sequence[Request]
    prompts: int  # how many different prompts the requests have, each so often
    metrics: Metrics
    began: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.id = f"{self.kind}-{secrets.token_hex(12)}"
        self.created = int(time.time())

    def head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model.name}

    def usage(self, job: Job) -> dict[str, int]:
        samples = len(self.requests) // self.prompts
        prompt = sum(len(request.prompt) for request in self.requests[::samples])
        answer = sum(len(generation.tokens) for generation in job.generations)
        return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}

    @contextlib.contextmanager
    def job(self, job: Job) -> Iterator[Job]:
        """Whatever happens in the block, the job is closed after it, and counted."""
        try:
            yield job
        finally:
            self.model.worker.close(job)
            self.metrics.count(self.model.name, self.usage(job), job.generations, time.perf_counter() - self.began)

    async def answer(self, document: Callable[[Job], dict[str, Any]]) -> Response:
        """The whole answer as one document."""
        with self.job(self.model.submit(self.requests, stream=False)) as job:
            finished = asyncio.ensure_future(job.wait())
            left = asyncio.ensure_future(self._disconnected())
            try:
                await asyncio.wait((finished, left), return_when=asyncio.FIRST_COMPLETED)
            finally:
                finished.cancel()
                left.cancel()
            if not job.finished:
                raise ApiError(499, "the client has left")
            if error := failure(job):
                raise error
            return Response(fast_json.dumps(document(job)), media_type="application/json")

    def stream(self, events: Events, kind: str, usage: bool) -> Response:
        """The same in pieces. kind: what an event is; usage: in a last event."""
        job = self.model.submit(self.requests, stream=True)
        last = {**self.head(kind), "choices": []} if usage else None
        return EventStream(self._stream(job, events, last), self.job(job))

    async def _stream(self, job: Job, events: Events, last: dict[str, Any] | None) -> AsyncIterator[bytes]:
        begun = False
        async for chunks in job.chunks(PING_SECONDS):
            if chunks and not begun:
                begun = True
                self.metrics.first_token(self.model.name, time.perf_counter() - self.began)
            shown = [each for each in chunks if is_shown(each[1])]
            content = b"".join(event(data) for index, chunk in shown for data in events(job, index, chunk))
            if content or not chunks:
                yield content or PING
        if error := failure(job):
            yield event(error.body())
        elif last is not None:
            yield event({**last, "usage": self.usage(job)})
        yield DONE

    async def _disconnected(self) -> None:
        while (await self.http.receive())["type"] != "http.disconnect":
            pass


def is_shown(chunk: Chunk) -> bool:
    """Whether it adds something to a stream; a failure is an event of its own."""
    if chunk.finish_reason is not None:
        return chunk.finish_reason not in FAILED
    return bool(chunk.text or chunk.logprobs)


def failure(job: Job) -> ApiError | None:
    """Why a job has no answer."""
    failed = [each for each in job.generations if each.finish_reason in FAILED]
    return ApiError(500, failed[0].error or "the request was cancelled") if failed else None
