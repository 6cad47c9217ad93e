"""What is asked of the engine, and what it answers.

request = Request(prompt=(5, 7, 9), max_tokens=100, sampling=Sampling(temperature=0.8, seed=1), stop=("\n\n",))
engine.submit(request)      → Generation, which grows with every engine.step()
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from fledge.core.errors import UserError

BAN = -100  # a bias that means never, not only rarely
FinishReason = Literal["stop", "length", "error", "cancelled"]
PastContext = Literal["reread", "slide"]  # how a text goes on when the context is full: see past_context.py


def check(valid: bool, name: str, value: object, hint: str) -> None:
    if not valid:
        raise UserError(f"{name} cannot be {value}", hint)


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; checks itself."""

    temperature: float = 1.0  # 0: greedy
    top_k: int | None = None  # the k most likely tokens only
    top_p: float | None = None  # the most likely tokens, up to this probability in total
    min_p: float | None = None  # tokens at least this fraction as likely as the most likely one
    repetition_penalty: float = 1.0  # divides the positive logits of tokens that occurred, multiplies negative ones
    presence_penalty: float = 0.0  # subtracted from the logits of generated tokens
    frequency_penalty: float = 0.0  # the same, for each time that a token was generated
    logit_bias: Mapping[int, float] = field(default_factory=dict)  # added to the logits: token id → bias
    seed: int = 0  # the text depends on it alone, not on other requests

    def __post_init__(self) -> None:
        check(0 <= self.temperature < math.inf, "temperature", self.temperature, "0 is greedy, 1 changes nothing")
        check(self.top_k is None or self.top_k >= 1, "top-k", self.top_k, "it is a number of tokens: 1 or more")
        check(self.top_p is None or 0 < self.top_p <= 1, "top-p", self.top_p, "it is a probability: above 0, at most 1")
        check(self.min_p is None or 0 <= self.min_p <= 1, "min-p", self.min_p, "it is a fraction: from 0 to 1")
        penalty = self.repetition_penalty
        check(0.01 <= penalty <= 100, "the repetition penalty", penalty, "1 is none, 1.1 is usual: 0.01 to 100")
        for name in ("presence", "frequency"):
            value = getattr(self, f"{name}_penalty")
            check(-1000 <= value <= 1000, f"the {name} penalty", value, "0 is none; usual are numbers from -2 to 2")
        for token, bias in self.logit_bias.items():
            if not -100 <= bias <= 100:
                check(False, f"the bias of token {token}", bias, "-100 bans a token, 100 forces it")


@dataclass(frozen=True)
class Request:
    prompt: tuple[int, ...]  # token ids; at least one
    max_tokens: int
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()  # the text ends before the first of them
    stop_tokens: tuple[int, ...] = ()  # these end the text too, as the end-of-text token does: a chat's end of turn
    logprobs: int | None = None  # log-probabilities of the tokens, with that many alternatives; None: not wanted
    prompt_logprobs: bool = False  # also of the prompt's tokens, of all but the first
    when_full: Literal["stop"] | PastContext = "stop"  # context full: end with "length", or go on
    ignore_end_of_text: bool = False

    def __post_init__(self) -> None:
        if not self.prompt:
            raise UserError("the prompt is empty", "write some text for the model to continue")
        check(self.max_tokens >= 0, "the number of tokens", self.max_tokens, "use 0 or more")
        check(self.logprobs is None or self.logprobs >= 0, "logprobs", self.logprobs, "use 0 or more alternatives")
        ways = get_args(PastContext)
        check(self.when_full in ("stop", *ways), "past-context", self.when_full, f"use {' or '.join(ways)}")
        if "" in self.stop:
            raise UserError("a stop string is empty", "leave it out: every text contains it")

    def check_for(self, context: int, vocab_size: int) -> None:
        """UserError where a model of this size cannot serve it."""
        ids = f"ids are whole numbers from 0 to {vocab_size - 1}"
        if min(self.prompt) < 0 or max(self.prompt) >= vocab_size:
            raise UserError(f"the prompt has a token id outside the vocabulary of {vocab_size}", ids)
        if len(self.prompt) > context and (self.when_full == "stop" or self.prompt_logprobs):
            length = f"the prompt has {len(self.prompt)} tokens, and the context of this model holds {context}"
            raise UserError(length, "shorten the prompt")
        bias = self.sampling.logit_bias
        if not all(0 <= token < vocab_size for token in bias):
            raise UserError(f"logit_bias names a token id outside the vocabulary of {vocab_size}", ids)
        if sum(value <= BAN for value in bias.values()) == vocab_size:
            raise UserError("logit_bias bans every token", "leave at least one that can be drawn")


@dataclass(frozen=True)
class TokenLogprob:
    """From the model's own distribution: temperature, penalties and bias do not change it."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # alternatives, the most likely first


@dataclass(frozen=True)
class Chunk:
    """What one step of the engine added to a generation. Text is held back while it may be part of a stop string.

    `tokens` are all that were drawn, also the end-of-text token and those of a stop string, which give no text.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None


@dataclass(eq=False)  # two equal requests are two generations
class Generation:
    """A request while the engine works on it, and its result afterwards."""

    request: Request
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)  # of prompt[1:]
    finish_reason: FinishReason | None = None  # None: not finished
    error: str | None = None
    chunks: list[Chunk] = field(default_factory=list)  # new since they were last taken

    def emit(self, chunk: Chunk) -> None:
        self.text += chunk.text
        self.logprobs += chunk.logprobs
        self.finish_reason = chunk.finish_reason
        self.chunks.append(chunk)

    def finish(self, reason: FinishReason) -> None:
        self.emit(Chunk("", (), (), reason))

    def fail(self, error: Exception) -> None:
        self.error = str(error) or type(error).__name__
        self.finish("error")

    def take(self) -> list[Chunk]:
        """The chunks since the last call."""
        taken, self.chunks = self.chunks, []
        return taken
