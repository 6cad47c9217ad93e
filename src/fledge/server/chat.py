"""/v1/chat/completions: the next message of a conversation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastapi import Request as HttpRequest
from fastapi import Response

from fledge.inference.request import Chunk, Request, TokenLogprob
from fledge.server.call import Call
from fledge.server.metrics import Metrics
from fledge.server.models import ServedModel, find_model, stop_strings
from fledge.server.schema import ChatRequest
from fledge.web.errors import ApiError
from fledge.web.worker import Job

CHUNK = "chat.completion.chunk"


async def chat(http: HttpRequest, body: ChatRequest, models: Mapping[str, ServedModel], metrics: Metrics) -> Response:
    if body.stream_options and not body.stream:
        raise ApiError(400, 'stream_options needs "stream": true', param="stream_options")
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, 'top_logprobs needs "logprobs": true', param="top_logprobs")
    model = find_model(models, body.model)
    call = Call(http, model, "chatcmpl", chat_requests(body, model), 1, metrics)
    if not body.stream:
        return await call.answer(lambda job: document(call, job, bool(body.logprobs)))
    usage = bool(body.stream_options and body.stream_options.include_usage)
    return call.stream(ChatEvents(call, bool(body.logprobs), usage), CHUNK, usage)


def chat_requests(body: ChatRequest, model: ServedModel) -> list[Request]:
    model.check_count(body.n or 1)
    prompt = model.encode_chat(body.messages)
    model.check_prompt(prompt, "messages")
    param = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    max_tokens = getattr(body, param)
    if max_tokens is None:
        max_tokens = model.context
    model.check_max_tokens(max_tokens, param)
    sampling = model.sampling(body)
    return [
        Request(
            prompt,
            max_tokens,
            replace(sampling, seed=sampling.seed + sample),
            stop=stop_strings(body),
            stop_tokens=() if model.template is None else model.template.stop_tokens,
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        )
        for sample in range(body.n or 1)
    ]


def logprobs_of(call: Call, found: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {"content": [call.model.texts.chat_logprob(each) for each in found], "refusal": None}


def document(call: Call, job: Job, logprobs: bool) -> dict[str, Any]:
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": generation.text, "refusal": None},
            "logprobs": logprobs_of(call, generation.logprobs) if logprobs else None,
            "finish_reason": generation.finish_reason,
        }
        for index, generation in enumerate(job.generations)
    ]
    return {**call.head("chat.completion"), "choices": choices, "usage": call.usage(job)}


class ChatEvents:
    """The chunks of an answer: the role first, then text, then the finish reason in an event of its own."""

    def __init__(self, call: Call, logprobs: bool, usage: bool) -> None:
        self._call, self._logprobs = call, logprobs
        self._extra = {"usage": None} if usage else {}
        self._begun: set[int] = set()

    def __call__(self, _: Job, index: int, chunk: Chunk) -> Iterator[dict[str, Any]]:
        if index not in self._begun:
            self._begun.add(index)
            yield self._event(index, {"role": "assistant", "content": ""})
        if chunk.text or (self._logprobs and chunk.logprobs):
            logprobs = logprobs_of(self._call, chunk.logprobs) if self._logprobs else None
            yield self._event(index, {"content": chunk.text}, logprobs)
        if chunk.finish_reason is not None:
            yield self._event(index, {}, None, chunk.finish_reason)

    def _event(
        self, index: int, delta: dict[str, str], logprobs: dict[str, Any] | None = None, reason: str | None = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return {**self._call.head(CHUNK), "choices": [choice], **self._extra}
