"""/v1/completions: continue prompts (text or token ids); with `echo` and `logprobs` score them, as lm-eval does."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from fastapi import Request as HttpRequest
from fastapi import Response

from fledge.inference.request import Chunk, Request
from fledge.server.call import Call
from fledge.server.metrics import Metrics
from fledge.server.models import ServedModel, find_model, stop_strings
from fledge.server.schema import CompletionRequest
from fledge.server.token_text import CompletionLogprobs, joined
from fledge.tokenizers.streaming import TextStreamer
from fledge.web.errors import ApiError
from fledge.web.worker import Job

DEFAULT_MAX_TOKENS = 16  # as OpenAI has it
OBJECT = "text_completion"


async def complete(
    http: HttpRequest, body: CompletionRequest, models: Mapping[str, ServedModel], metrics: Metrics
) -> Response:
    refuse_unsupported(body)
    model = find_model(models, body.model)
    prompts = await read_prompts(body, model)
    samples = body.n or 1
    max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    model.check_max_tokens(max_tokens, "max_tokens")
    sampling = model.sampling(body)
    requests = [
        Request(
            prompt.ids,
            max_tokens,
            replace(sampling, seed=sampling.seed + sample),
            stop=stop_strings(body),
            logprobs=body.logprobs,
            prompt_logprobs=bool(body.echo) and body.logprobs is not None,
        )
        for prompt in prompts
        for sample in range(samples)
    ]
    call = Call(http, model, "cmpl", requests, len(prompts), metrics)
    choices = [Choice(call, body, index, prompts[index // samples]) for index in range(len(requests))]
    if not body.stream:
        return await call.answer(
            lambda job: {
                **call.head(OBJECT),
                "choices": [each.whole(job) for each in choices],
                "usage": call.usage(job),
            }
        )
    usage = bool(body.stream_options and body.stream_options.include_usage)
    extra = {"usage": None} if usage else {}

    def events(job: Job, index: int, chunk: Chunk) -> Iterator[dict[str, Any]]:
        yield {**call.head(OBJECT), "choices": [choices[index].piece(job, chunk)], **extra}

    return call.stream(events, OBJECT, usage)


def refuse_unsupported(body: CompletionRequest) -> None:
    if body.suffix:
        raise ApiError(400, "suffix is not supported: these models continue a text", param="suffix")
    if body.best_of is not None and body.best_of > (body.n or 1):
        raise ApiError(400, "best_of above n is not supported: ask for n texts, with logprobs", param="best_of")
    if body.stream_options and not body.stream:
        raise ApiError(400, 'stream_options needs "stream": true', param="stream_options")


@dataclass(frozen=True)
class Prompt:
    ids: tuple[int, ...]
    text: str


async def read_prompts(body: CompletionRequest, model: ServedModel) -> list[Prompt]:
    given = body.prompt
    several = isinstance(given, list) and (not given or not isinstance(given[0], int))
    wanted = cast(list[Any], given) if several else [given]
    model.check_count(len(wanted) * (body.n or 1))
    found = []
    for each in wanted:
        ids = await model.encode(each) if isinstance(each, str) else tuple(each)
        model.check_prompt(ids, "prompt")
        found.append(Prompt(ids, each if isinstance(each, str) else text_of(model, ids)))
    if not found:
        raise ApiError(400, "prompt is an empty list: there is nothing to continue", param="prompt")
    return found


def text_of(model: ServedModel, ids: tuple[int, ...]) -> str:
    stream = TextStreamer(model.tokenizer)
    return "".join(map(stream.add, ids)) + stream.end()


class Choice:
    """One text of the answer."""

    def __init__(self, call: Call, body: CompletionRequest, index: int, prompt: Prompt) -> None:
        self._index, self._echo, self._prompt = index, bool(body.echo), prompt
        self._logprobs = None if body.logprobs is None else CompletionLogprobs(call.model.texts, prompt.ids)
        self._began = False

    def whole(self, job: Job) -> dict[str, Any]:
        generation = job.generations[self._index]
        return self.piece(job, Chunk(generation.text, (), tuple(generation.logprobs), generation.finish_reason))

    def piece(self, job: Job, chunk: Chunk) -> dict[str, Any]:
        """With `echo` the first piece has the prompt."""
        text, logprobs = chunk.text, None
        echo, self._began = self._echo and not self._began, True
        if self._logprobs is not None:
            parts = [self._logprobs.of_prompt(job.generations[self._index].prompt_logprobs)] if echo else []
            logprobs = joined([*parts, self._logprobs.of_answer(chunk.logprobs)])
        if echo:
            text = self._prompt.text + text
        return {"index": self._index, "text": text, "logprobs": logprobs, "finish_reason": chunk.finish_reason}
