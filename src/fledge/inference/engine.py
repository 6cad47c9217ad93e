"""The engine: many requests, one model. Each step reads some of a prompt and adds a token to every running request.

    engine = Engine(decoder, tokenizer)
    generation = engine.submit(Request(prompt, max_tokens=100))
    while engine.step():
        for chunk in generation.take(): …        # or: for chunk in run(engine, request): …

1. A waiting request gets a free slot (a row of the KV cache), first come first served. What its prompt has in common
   with the tokens of any slot is not computed again (slots.py).
2. Its prompt is computed in chunks, one in each step, while the others go on (chunked prefill).
3. One call of the decoder computes the next token of all running requests (continuous batching), and one call of the
   sampler draws them (slot_sampler.py).
4. Tokens become text (stop.py) and chunks. On a GPU they are fetched one step late, so that it never waits for Python;
   a token that was computed after the end of its request is thrown away.

Not thread-safe: one thread owns an engine. An error in one request ends that request only.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fledge.core.errors import UserError
from fledge.inference.decoder import Decoder
from fledge.inference.logprobs import Logprobs, prompt_logprobs
from fledge.inference.past_context import slide
from fledge.inference.request import Chunk, FinishReason, Generation, Request, TokenLogprob
from fledge.inference.slot_sampler import SlotSampler
from fledge.inference.slots import Running, SlotTable
from fledge.inference.stop import TextStream
from fledge.tokenizers.base import Tokenizer

NOT_FINITE = "the logits are not finite: the training of this model diverged"


@dataclass
class Counters:
    """Totals since the engine began."""

    prompt_tokens: int = 0  # of the prompts of admitted requests
    reused_tokens: int = 0  # of these, tokens that were in the cache
    generated_tokens: int = 0


@dataclass(frozen=True)
class Drawn:
    """Tokens on the way from the device: of some neighbouring slots."""

    tokens: Tensor  # [R]
    logprobs: Logprobs | None
    rows: list[tuple[int, Running]]  # which rows are wanted, and for which request
    decoded: bool  # by a decode step: the token before is in the cache now
    ready: torch.cuda.Event | None


class Engine:
    def __init__(self, decoder: Decoder, tokenizer: Tokenizer, *, prefill_chunk: int = 256) -> None:
        self.counters = Counters()
        self.decoder, self._tokenizer = decoder, tokenizer
        self._context = decoder.config.context
        self._vocab_size = min(tokenizer.vocab_size, decoder.config.vocab_size or tokenizer.vocab_size)
        self._prefill_chunk = prefill_chunk
        self._slots = SlotTable(decoder)
        self._waiting: deque[Generation] = deque()
        self._prefilling: deque[Running] = deque()
        self._sampler = SlotSampler(decoder.slots, self._vocab_size, decoder.device)
        self._tokens = torch.zeros(decoder.slots, dtype=torch.long, device=decoder.device)  # the newest of each slot
        self._drawn: deque[Drawn] = deque()
        self.lag = 1 if decoder.device.type == "cuda" else 0  # steps between a token and its text

    @property
    def slots(self) -> int:
        """How many requests can run at the same time."""
        return len(self._slots)

    @property
    def active(self) -> int:
        """How many requests run now."""
        return len(self._slots.running())

    @property
    def waiting(self) -> int:
        """How many requests wait for a slot."""
        return len(self._waiting)

    def submit(self, request: Request) -> Generation:
        """Put a request at the end of the queue; UserError where it cannot be served. The queue has no limit."""
        self.check(request)
        generation = Generation(request)
        self._waiting.append(generation)
        return generation

    def check(self, request: Request) -> None:
        """UserError where it cannot be served. May be called by any thread."""
        request.check_for(self._context, self._vocab_size)

    def cancel(self, generation: Generation) -> None:
        """End a generation now; its slot is free for the next step."""
        if generation.finish_reason is not None:
            return
        if generation in self._waiting:
            self._waiting.remove(generation)
        for running in self._slots.running():
            if running.generation is generation:
                self._release(running)
        generation.finish("cancelled")

    def step(self) -> bool:
        """One round; False when nothing is left to do."""
        self._prefill()
        launched = self._decode()
        while len(self._drawn) > (self.lag if launched else 0):
            self._fetch(self._drawn.popleft())
        while not self._waiting and (moved := self._slots.move_down()) is not None:
            source, target = moved
            self._tokens[target] = self._tokens[source]
            self._sampler.move(source, target)
        return bool(self._waiting or self._drawn or self._slots.running())

    def _prefill(self) -> None:
        """Compute at most one chunk of prompts: the rest of one, and of the next ones what still fits."""
        budget = self._prefill_chunk
        while budget > 0 and (self._prefilling or self._admit()):
            running = self._prefilling[0]
            try:
                budget -= self._prefill_some(running, budget)
            except Exception as error:  # of this request: the others go on
                self._fail(running, error)

    def _admit(self) -> bool:
        """The first waiting request gets a slot, if one is free."""
        if not self._waiting:
            return False
        generation, request = self._waiting[0], self._waiting[0].request
        prompt = list(request.prompt[-self._context :])
        try:
            slot = self._slots.place(prompt, reuse=not request.prompt_logprobs)
        except Exception as error:
            self._waiting.popleft().fail(error)
            raise
        if slot is None:
            return False
        self._waiting.popleft()
        shared = len(slot.cached)
        limit = request.max_tokens
        if request.when_full == "stop":  # the last token need not fit in, as none follows
            limit = min(limit, self._context + 1 - len(prompt))
        text = TextStream(self._tokenizer, request.stop)
        slot.running = Running(generation, slot, text, limit, prompt, length=shared)
        self._prefilling.append(slot.running)
        self.counters.prompt_tokens += len(prompt)
        self.counters.reused_tokens += shared
        return True

    def _prefill_some(self, running: Running, budget: int) -> int:
        """→ how many tokens of a prompt were computed"""
        slot, request = running.slot, running.generation.request
        start = running.length
        if not running.started:
            self._sampler.assign(slot.index, request.sampling, request.prompt)
            running.started = True
        ids = running.prompt[start : start + budget]
        hidden = self.decoder.prefill(slot.index, start, torch.tensor(ids).to(self._tokens.device))
        running.length = start + len(ids)
        slot.cached += ids
        if request.prompt_logprobs and not running.drawn:
            following = running.prompt[start + 1 : running.length + 1]
            logits = self.decoder.head(hidden[: len(following)])
            running.generation.prompt_logprobs += prompt_logprobs(
                logits, following, request.logprobs or 0, self._vocab_size
            )
        if running.length == len(running.prompt):
            self._prefilling.popleft()
            if running.limit == 0:
                self._release(running)
                running.generation.finish("length")
            else:
                running.decoding = True
                self._draw(self.decoder.head(hidden[-1:]), slot.index, [running], decoded=False)
        return len(ids)

    def _decode(self) -> bool:
        """One more token for every running request whose prompt is in the cache; False where there is none."""
        running = [each for each in self._slots.running() if self._is_ready(each)]
        if not running:
            return False
        rows: list[Running | None] = [None] * (running[-1].slot.index + 1)
        for each in running:
            rows[each.slot.index] = each
        try:
            self._draw(self._next_logits(running), 0, rows, decoded=True)
        except Exception as error:
            self._fail_all(running, error)
            raise
        return True

    def _next_logits(self, running: Sequence[Running]) -> Tensor:
        """→ [R, V] for slots 0 … R-1; those of slots that are not running mean nothing."""
        full = [each for each in running if each.length == self._context]
        decoding = [each for each in running if each.length < self._context]
        logits = torch.empty(0)
        if decoding:
            # What is written for a slot that is not ready is never read: it stands behind the tokens of the slot.
            lengths = [min(self._slots[row].length, self._context - 1) for row in range(decoding[-1].slot.index + 1)]
            logits = self.decoder.decode(self._tokens[: len(lengths)], lengths)
            for each in decoding:
                each.length += 1
        return slide(self.decoder, full, self._tokens, logits) if full else logits

    def _is_ready(self, running: Running) -> bool:
        if not running.decoding or running.drawn >= running.limit:
            return False
        if running.length < self._context or running.generation.request.when_full == "slide":
            return True
        if running.drawn == len(running.generation.tokens):  # all are known: read the newer half again
            text = (*running.generation.request.prompt, *running.generation.tokens)
            running.prompt = list(text[-(self._context // 2 or 1) :])
            running.slot.cached, running.length, running.decoding = [], 0, False
            self._prefilling.append(running)
        return False

    def _draw(self, logits: Tensor, start: int, rows: Sequence[Running | None], *, decoded: bool) -> None:
        """Draw a token of each row, keep it on the device for the next step, and begin to fetch it."""
        indices = [None if running is None else running.drawn for running in rows]
        tokens = self._sampler.sample(logits, start, indices)
        wanted = [(row, running) for row, running in enumerate(rows) if running is not None]
        asked = [running.generation.request.logprobs for _, running in wanted]
        logprobs = None
        if any(count is not None for count in asked):
            logprobs = Logprobs.of(logits, tokens, max(count or 0 for count in asked), self._vocab_size)
        self._tokens[start : start + len(rows)] = tokens.clamp(min=0)
        for _, running in wanted:
            running.drawn += 1
        ready = None
        if tokens.device.type == "cuda":
            tokens, logprobs = tokens.to("cpu", non_blocking=True), logprobs and logprobs.to_cpu()
            ready = torch.cuda.Event()
            ready.record()
        self._drawn.append(Drawn(tokens, logprobs, wanted, decoded, ready))

    def _fetch(self, drawn: Drawn) -> None:
        unfinished = [each for each in drawn.rows if each[1].generation.finish_reason is None]
        try:
            if drawn.ready is not None:
                drawn.ready.synchronize()
            tokens = drawn.tokens.tolist()
        except Exception as error:  # of the GPU, in one of the last steps
            self._fail_all([running for _, running in unfinished], error)
            raise
        for row, running in unfinished:
            try:
                asked = running.generation.request.logprobs
                logprob = None if drawn.logprobs is None or asked is None else drawn.logprobs.row(row, asked)
                self._add(running, tokens[row], logprob, drawn.decoded)
            except Exception as error:  # of this request: the others go on
                self._fail(running, error)

    def _add(self, running: Running, token: int, logprob: TokenLogprob | None, decoded: bool) -> None:
        """A token of a request has arrived."""
        generation = running.generation
        if token < 0:
            raise UserError(NOT_FINITE, "use RUN@best instead")
        if decoded and len(running.slot.cached) < self._context:
            running.slot.cached.append(generation.tokens[-1])
        generation.tokens.append(token)
        self.counters.generated_tokens += 1
        request = generation.request
        end_of_text = token == self._tokenizer.end_of_text and not request.ignore_end_of_text
        ended = end_of_text or token in request.stop_tokens
        text = "" if ended else running.text.add(token)
        reason: FinishReason | None = None
        if ended or running.text.stopped:
            reason = "stop"
        elif len(generation.tokens) == running.limit:
            reason = "length"
        if reason is not None:
            text += running.text.end()
            self._release(running)
        generation.emit(Chunk(text, (token,), () if logprob is None else (logprob,), reason))

    def _fail(self, running: Running, error: Exception) -> None:
        self._release(running)
        running.generation.fail(error)

    def _fail_all(self, failed: Sequence[Running], error: Exception) -> None:
        """What their caches hold is unknown."""
        for running in failed:
            running.slot.cached = []
            self._fail(running, error)

    def _release(self, running: Running) -> None:
        """Free the slot. Its tokens stay in the cache, for requests that begin with the same ones."""
        if running in self._prefilling:
            self._prefilling.remove(running)
        running.slot.running = None
        self._sampler.release(running.slot.index)


def run(engine: Engine, request: Request) -> Iterator[Chunk]:
    """The chunks of one request, as they come. Leaving the loop early cancels it."""
    generation = engine.submit(request)
    try:
        while generation.finish_reason is None:
            engine.step()
            yield from generation.take()
    finally:
        engine.cancel(generation)
