"""Continue prompts with the model of a run, many at the same time."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from fledge.core.errors import UserError
from fledge.core.progress import notice
from fledge.inference.generate import prompt_ids
from fledge.inference.request import Chunk, FinishReason, Generation, PastContext, Request, Sampling, TokenLogprob
from fledge.recipes.load_engine import LoadedEngine, load_engine
from fledge.runs.run_folder import LoadedCheckpoint
from fledge.tokenizers.base import Tokenizer

MAX_SLOTS = 32  # texts at the same time
MAX_TOKENS, MAX_TEXTS, MAX_LOGPROBS = 10**6, 10**5, 100
DEFAULT_SAMPLING = Sampling(temperature=0.8)


@dataclass(frozen=True)
class GeneratedText:
    prompt: str
    text: str  # what follows the prompt
    finish_reason: FinishReason
    tokens: int  # generated ones, the end-of-text token included
    seed: int
    logprobs: list[TokenLogprob] | None = None


class Generating:
    """Texts that are being generated: iterate over `chunks()` or `texts()`, one of them and once."""

    def __init__(self, loaded: LoadedEngine, prompts: Sequence[str], requests: Sequence[Request]) -> None:
        self.run, self.step, self.choice = loaded.run.name, loaded.step, loaded.choice
        self.tokenizer = loaded.tokenizer
        self.prompts = prompts  # one for each text
        self.tokens, self.seconds = 0, 0.0  # of all texts, until now; reading the prompts is included
        self._engine, self._requests = loaded.engine, requests
        self._done: dict[int, Generation] = {}

    @property
    def tokens_per_second(self) -> float | None:
        return self.tokens / self.seconds if self.tokens and self.seconds else None

    def chunks(self) -> Iterator[tuple[int, Chunk]]:
        """The number of a text and what was added to it, as it is generated. A text that fails is an error."""
        waiting, running, begin = enumerate(self._requests), dict[int, Generation](), time.perf_counter()
        try:
            while True:
                for number, request in islice(waiting, self._engine.slots - len(running)):
                    running[number] = self._engine.submit(request)
                if not running:
                    return
                self._engine.step()
                self.seconds = time.perf_counter() - begin
                for number, generation in list(running.items()):
                    for chunk in generation.take():
                        self.tokens += len(chunk.tokens)
                        if chunk.finish_reason is not None:
                            refuse_failed(generation)
                            self._done[number] = running.pop(number)
                        yield number, chunk
        finally:
            for generation in running.values():
                self._engine.cancel(generation)

    def texts(self) -> Iterator[GeneratedText]:
        """The texts in the order of the prompts, each as soon as it and those before it are finished."""
        following = 0
        for _ in self.chunks():
            while following in self._done:
                yield self._text(following, self._done.pop(following))
                following += 1

    def _text(self, number: int, generation: Generation) -> GeneratedText:
        request, reason = generation.request, generation.finish_reason
        assert reason is not None
        logprobs = None if request.logprobs is None else generation.logprobs
        tokens = len(generation.tokens)
        return GeneratedText(self.prompts[number], generation.text, reason, tokens, request.sampling.seed, logprobs)


def refuse_failed(generation: Generation) -> None:
    if generation.error is not None:
        raise UserError(generation.error, "try an earlier checkpoint, RUN@best, or --dtype float32")


def generate(
    run: str | LoadedCheckpoint | None,
    prompts: Sequence[str] | None = None,
    *,
    runs: Path = Path("runs"),
    tokens: int = 300,
    sampling: Sampling = DEFAULT_SAMPLING,
    stop: Sequence[str] = (),
    n: int = 1,
    logprobs: int | None = None,
    past_context: PastContext = "reread",
    begin_with: str | None = None,
    ignore_end_of_text: bool = False,
    device: str = "auto",
    dtype: str = "auto",
) -> Generating:
    """Generate up to `tokens` tokens after each prompt; None: the prompt of the run's samples.

    run: a name, a loaded checkpoint, or None for the latest run. n: texts for each prompt, with the seeds seed, seed+1,
    …; so the text of a prompt does not depend on the other prompts. past_context: when the context is full, its newer
    half is read again ("reread"), or all of it for each new token ("slide"): past_context.py. begin_with: a special
    token before each prompt. ignore_end_of_text: go on after the end-of-text token.
    """
    check_counts(tokens, sampling.seed, n, 1 if prompts is None else len(prompts))
    if logprobs is not None and not 0 <= logprobs <= MAX_LOGPROBS:
        raise UserError(f"--logprobs cannot be {logprobs}", f"how many alternatives to each token: 0 to {MAX_LOGPROBS}")
    slots = slots_for(n * (1 if prompts is None else len(prompts)))
    loaded = load_engine(run, runs, slots=slots, device=device, dtype=dtype)
    if prompts is None:
        prompts = [loaded.run.config().get("track", {}).get("prompt", "")]
    tokenizer = loaded.tokenizer
    if len(prompts) == 1 and prompts[0].endswith(" ") and tokenizer.kind != "char":
        notice("hint: the prompt ends in a space; tokens begin with theirs, so the text is better without it")
    requests = [
        Request(
            ids,
            tokens,
            replace(sampling, seed=sampling.seed + sample),
            stop=tuple(stop),
            logprobs=logprobs,
            when_full=past_context,
            ignore_end_of_text=ignore_end_of_text,
        )
        for ids in encode_prompts(tokenizer, prompts, begin_with)
        for sample in range(n)
    ]
    point_out_long_prompts([len(request.prompt) for request in requests], loaded.model.context)
    return Generating(loaded, [prompt for prompt in prompts for _ in range(n)], requests)


def encode_prompts(tokenizer: Tokenizer, prompts: Sequence[str], begin_with: str | None) -> list[tuple[int, ...]]:
    """An error names the prompt."""
    first = () if begin_with is None else (special_token(tokenizer, begin_with),)
    encoded: list[tuple[int, ...]] = []
    for number, prompt in enumerate(prompts, start=1):
        which = f"prompt {number:,}: " if len(prompts) > 1 else ""
        try:
            prompt.encode()
            encoded.append((*first, *(prompt_ids(tokenizer, prompt) if prompt or not first else ())))
        except UnicodeEncodeError:  # from JSON, or bytes of a shell that are not UTF-8
            raise UserError(f"{which}the text is not valid Unicode", "convert it to UTF-8") from None
        except UserError as error:
            raise UserError(f"{which}{error.message}", error.hint) from None
    return encoded


def special_token(tokenizer: Tokenizer, name: str) -> int:
    special = {each["content"]: int(each["id"]) for each in tokenizer.to_json()["added_tokens"] if each["special"]}
    if name not in special:
        known = f"it has {', '.join(special)}" if special else "leave --begin-with out: it has none"
        raise UserError(f"this model has no special token '{name}'", known)
    return special[name]


def point_out_long_prompts(lengths: Sequence[int], context: int) -> None:
    if (longest := max(lengths, default=0)) > context:
        which = "a prompt" if len(lengths) > 1 else "the prompt"
        notice(f"{which} has {longest:,} tokens, and the context of the model holds {context:,}: only its end is read")


def check_counts(tokens: int, seed: int, n: int, prompts: int) -> None:
    if not 0 <= tokens <= MAX_TOKENS:
        raise UserError(f"--tokens cannot be {tokens}", f"it must be a whole number from 0 to {MAX_TOKENS:,}")
    if not 0 <= seed < 2**62:
        raise UserError(f"--seed cannot be {seed}", "it must be a whole number from 0 to 2^62 - 1")
    if not 1 <= n <= MAX_TEXTS:
        raise UserError(f"--n cannot be {n}", f"it is how many texts a prompt gets: from 1 to {MAX_TEXTS:,}")
    if n * prompts > MAX_TEXTS:
        raise UserError(f"{n * prompts:,} texts are too many for one command", f"at most {MAX_TEXTS:,}: split the file")


def slots_for(texts: int) -> int:
    """A power of two: the fastest path is measured for a number of slots, so there should be few such numbers."""
    return min(MAX_SLOTS, 1 << (texts - 1).bit_length())
