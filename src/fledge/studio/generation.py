"""What the playground asks of an engine, and the events of its answer.

    body → ids of the prompt → Request → begin, prompt?, tokens…, end | error

A token is a JSON object: its id, its text or, where it is only part of a character, its bytes in hexadecimal, its
log-probability under the model's own distribution, and the most likely alternatives as [token, log-probability].
"""

import math
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BaseModel, Field

from fledge.core.errors import UserError
from fledge.inference.conversation import Conversation
from fledge.inference.generate import prompt_ids
from fledge.inference.request import PastContext, Request, Sampling, TokenLogprob
from fledge.studio.engines import TextModel
from fledge.tokenizers.base import Tokenizer
from fledge.web.event_stream import PING, PING_SECONDS, event
from fledge.web.worker import Job

MAX_TOKENS, MAX_ALTERNATIVES, MAX_STOP = 4000, 50, 16
SEEDS = 2**62
Number = Annotated[float, Field(allow_inf_nan=False)]


class ChatTurn(BaseModel):
    role: str
    content: str


class GenerateBody(BaseModel):
    """`prompt` for a text, `messages` for a chat; with `ids`, tokens that follow it: the beginning of a branch."""

    run: str = Field("", description="a run, as hamlet or hamlet@1000; empty: the latest")
    prompt: str | None = Field(None, description="text to continue; none with ids: these are all")
    messages: list[ChatTurn] = Field([], description="a conversation that ends with a message of the user")
    ids: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field([], description="tokens after the prompt")
    tokens: int = Field(200, ge=0, le=MAX_TOKENS, description="how many at most; 0: only probabilities of the prompt")
    temperature: Number = 1.0
    top_k: int | None = None
    top_p: Number | None = None
    min_p: Number | None = None
    repetition_penalty: Number = 1.0
    presence_penalty: Number = 0.0
    frequency_penalty: Number = 0.0
    seed: int = Field(0, ge=0, lt=SEEDS)
    stop: list[str] = Field([], max_length=MAX_STOP, description="the text ends before the first of them")
    past_context: PastContext = Field("reread", description="how a text, not a chat, goes on when its context is full")
    alternatives: int = Field(8, ge=0, le=MAX_ALTERNATIVES, description="of each token")
    score_prompt: bool = Field(True, description="probabilities of the prompt's tokens too")

    def sampling(self) -> Sampling:
        """UserError where a value is impossible."""
        return Sampling(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Prompt:
    ids: tuple[int, ...]
    dropped: int = 0  # tokens, or messages of a chat, that did not fit into the context
    added: bool = False  # the prompt was empty: its one token was put there, as documents begin


def read_prompt(body: GenerateBody, model: TextModel) -> Prompt:
    """What the model reads; of a text that is longer than the context, the end."""
    if body.messages:
        return read_chat(body, model)
    ids: Sequence[int] = body.ids
    if body.prompt is not None:
        ids = (*prompt_ids(model.loaded.tokenizer, body.prompt), *body.ids)
    context = model.loaded.model.context
    return Prompt(tuple(ids[-context:]), max(len(ids) - context, 0), body.prompt == "")


def read_chat(body: GenerateBody, model: TextModel) -> Prompt:
    if model.template is None:
        name = model.loaded.run.reference
        raise UserError(
            f"'{name}' has no chat template: it was not trained on conversations",
            f"let it continue a text, or teach it: fledge align sft --init {name}",
        )
    turns = [{"role": turn.role, "content": turn.content} for turn in body.messages]
    system = "".join(turn["content"] for turn in turns if turn["role"] == "system")
    turns = [turn for turn in turns if turn["role"] != "system"]
    if [turn["role"] for turn in turns] != ["user", "assistant"] * (len(turns) // 2) + ["user"]:
        raise UserError("a conversation is questions and answers in turns", "end it with a message of the user")
    conversation = Conversation(model.loaded.tokenizer, model.template, model.loaded.model.context, body.tokens)
    conversation.system = system
    conversation.messages = [*turns[:-1]]
    ids = conversation.ask(turns[-1]["content"])
    return Prompt((*ids, *body.ids), conversation.dropped)


def make_request(body: GenerateBody, prompt: Prompt, model: TextModel) -> Request:
    """A text goes on where the context is full; a chat's answer ends there."""
    is_chat = bool(body.messages)
    return Request(
        prompt.ids,
        body.tokens,
        body.sampling(),
        stop=tuple(body.stop),
        stop_tokens=() if model.template is None or not is_chat else model.template.stop_tokens,
        logprobs=body.alternatives,
        prompt_logprobs=body.score_prompt,
        when_full="stop" if is_chat else body.past_context,
    )


class TokenJSON:
    """Tokens as JSON objects."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = {each["id"]: each["content"] for each in tokenizer.to_json()["added_tokens"] if each["special"]}
        self.token = lru_cache(1 << 14)(self._token)

    def _token(self, token: int) -> Mapping[str, Any]:
        if token in self._special:
            return {"id": token, "text": self._special[token], "special": True}
        content = self._tokenizer.id_to_bytes(token)
        try:
            return {"id": token, "text": content.decode()}
        except UnicodeDecodeError:
            return {"id": token, "text": "", "bytes": content.hex()}

    def scored(self, found: TokenLogprob) -> dict[str, Any]:
        top = [[self.token(token), known(logprob)] for token, logprob in found.top]
        return {**self.token(found.token), "logprob": known(found.logprob), "top": top}


def known(logprob: float) -> float | None:
    """JSON has no -inf."""
    return round(logprob, 6) if math.isfinite(logprob) else None


async def stream(job: Job, prompt: Prompt, model: TextModel, stopping: threading.Event) -> AsyncIterator[bytes]:
    """The events of a job with one request. stopping: set when the studio ends, and the text with it."""
    began, tokens = time.perf_counter(), TokenJSON(model.loaded.tokenizer)
    yield event(beginning(prompt, model, tokens), "begin")
    scored, count = not job.requests[0].prompt_logprobs, 0
    async for chunks in job.chunks(PING_SECONDS):
        if not chunks:
            yield PING
        if chunks and not scored:
            scored = True
            yield event({"tokens": list(map(tokens.scored, job.generations[0].prompt_logprobs))}, "prompt")
        new = [tokens.scored(found) for _, chunk in chunks for found in chunk.logprobs]
        count += len(new)
        if new:
            yield event({"tokens": new}, "tokens")
        if stopping.is_set() and not job.finished:
            yield event({"message": "the studio was stopped"}, "error")
            return
    generation = job.generations[0]
    if generation.error is not None:
        yield event({"message": generation.error}, "error")
    else:
        yield event(
            {"reason": generation.finish_reason, "seconds": time.perf_counter() - began, "tokens": count}, "end"
        )


def beginning(prompt: Prompt, model: TextModel, tokens: TokenJSON) -> dict[str, Any]:
    tokenizer, template = model.loaded.tokenizer, model.template
    ends = {*(() if template is None else template.stop_tokens), tokenizer.end_of_text} - {None}
    return {
        "run": model.loaded.run.name,
        "step": model.loaded.step,
        "context": model.loaded.model.context,
        "prompt": [tokens.token(token) for token in prompt.ids],
        "dropped": prompt.dropped,
        "added": prompt.added,
        "ends": sorted(ends),
    }
