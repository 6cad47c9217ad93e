"""The models behind one server, and how a client's options become requests to an engine."""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fastapi.concurrency import run_in_threadpool

from fledge.inference.conversation import text_so_far
from fledge.inference.request import Request, Sampling
from fledge.server.schema import ChatMessage, Options
from fledge.server.token_text import TokenText
from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.chat_template import ChatTemplate
from fledge.web.errors import ApiError
from fledge.web.worker import Job, QueueFull, Worker

RETRY_SECONDS = 1
LONG_TEXT = 10_000  # characters that are tokenized beside the event loop
SEEDS = 2**62


@dataclass(frozen=True)
class ServedModel:
    name: str
    tokenizer: Tokenizer
    context: int
    template: ChatTemplate | None
    worker: Worker
    texts: TokenText
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    async def encode(self, text: str) -> tuple[int, ...]:
        check_text(text)
        if len(text) < LONG_TEXT:
            return self._ids(text)
        return await run_in_threadpool(self._ids, text)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text).tolist())

    def encode_chat(self, messages: Sequence[ChatMessage]) -> tuple[int, ...]:
        """By the chat template; without one, all messages as one text, which the model continues."""
        plain = [{"role": each.role, "content": check_text(each.text())} for each in messages]
        if self.template is None:
            return self._ids(text_so_far(plain))
        return tuple(self.template.encode(plain))

    def check_prompt(self, prompt: Sequence[int], param: str) -> None:
        if not prompt:
            raise ApiError(400, f"{param} is empty: there is nothing to continue", param=param)
        if max(prompt) >= self.vocab_size:
            message = f"{param} has the token id {max(prompt)}; the vocabulary of {self.name} has {self.vocab_size}"
            raise ApiError(400, message, param=param)
        if len(prompt) > self.context:
            message = f"the prompt has {len(prompt):,} tokens, and the context of {self.name} holds {self.context:,}"
            raise ApiError(400, message, param=param, code="context_length_exceeded")

    def check_max_tokens(self, max_tokens: int, param: str) -> None:
        if max_tokens > self.context:
            message = f"{param} cannot be {max_tokens}: the context of {self.name} holds {self.context:,} tokens"
            raise ApiError(400, message, param=param, code="context_length_exceeded")

    def check_count(self, texts: int) -> None:
        """Called before anything is done for each of them."""
        if texts > self.worker.capacity:
            raise ApiError(400, f"{texts:,} texts are too many for one request: at most {self.worker.capacity:,}")

    def sampling(self, options: Options) -> Sampling:
        bias = {int(token): value for token, value in (options.logit_bias or {}).items()}
        if bias and max(bias) >= self.vocab_size:
            message = f"logit_bias has the token id {max(bias)}; the vocabulary of {self.name} has {self.vocab_size}"
            raise ApiError(400, message, param="logit_bias")
        return Sampling(
            temperature=1.0 if options.temperature is None else options.temperature,
            top_k=options.top_k if options.top_k and options.top_k > 0 else None,
            top_p=options.top_p,
            min_p=options.min_p,
            repetition_penalty=options.repetition_penalty or 1.0,
            presence_penalty=options.presence_penalty or 0.0,
            frequency_penalty=options.frequency_penalty or 0.0,
            logit_bias=bias,
            seed=secrets.randbelow(SEEDS) if options.seed is None else options.seed % SEEDS,
        )

    def submit(self, requests: Sequence[Request], *, stream: bool) -> Job:
        try:
            return self.worker.submit(requests, stream=stream)
        except QueueFull:
            message = f"the queue of {self.name} is full: try again later"
            headers = {"Retry-After": str(RETRY_SECONDS)}
            raise ApiError(429, message, code="queue_full", headers=headers) from None


def find_model(models: Mapping[str, ServedModel], name: str | None) -> ServedModel:
    """None: the first."""
    if name is None:
        return next(iter(models.values()))
    if name not in models:
        message = f"the model '{name[:100]}' does not exist; this server has: {', '.join(models)}"
        raise ApiError(404, message, param="model", code="model_not_found")
    return models[name]


def check_text(text: str) -> str:
    """JSON can hold half of a surrogate pair, which is no character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ApiError(400, "the text has half of a surrogate pair, which is no character") from None
    return text


def stop_strings(options: Options) -> tuple[str, ...]:
    stop = options.stop
    return () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)
