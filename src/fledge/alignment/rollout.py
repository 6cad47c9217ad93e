"""Rollouts: prompts → answers of the policy as it is now, through the engine, and their rewards.

    generator = Generator(config, machine, tokenizer, template.stop_tokens)
    answers = generator(model, prompts, samplings)              # the weights of this moment
    batch = to_batch(prompts, answers, rewards, width)          # a row of tensors for each episode

The decoder is that of generation (inference/), in the precision of training; its path is chosen once and recorded in
`rollout.decoder`, since another path may round in another way and so draw another token. Each iteration puts the new
weights into it and begins with an empty cache. An episode is drawn with a seed of its own, and does not depend on the
others.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from fledge.alignment.common import up_to_question
from fledge.alignment.config import AlignSettings, DPOSettings, OnlineSettings, RolloutConfig
from fledge.batches.loader import Batch
from fledge.core.device import DTYPES, Machine, set_threads
from fledge.core.errors import UserError
from fledge.core.progress import notice
from fledge.datasets.examples import Example
from fledge.inference import choose_decoder
from fledge.inference.choose_decoder import Path
from fledge.inference.engine import Engine
from fledge.inference.fast_decoder import FastDecoder
from fledge.inference.graph_decoder import GraphDecoder
from fledge.inference.request import Generation, Request, Sampling
from fledge.losses.cross_entropy import IGNORE
from fledge.model.gpt import GPT
from fledge.model.init import build, merged_copy
from fledge.model.lora import plain_config
from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.chat_template import ChatTemplate

T = TypeVar("T", bound=AlignSettings)
Ids = Sequence[int]
PREFILL_CHUNK = 2**20  # tokens: all slots are filled at once, as no answer is urgent
CHECKED = 4  # answers of which the engine gives log-probabilities, which takes time


@dataclass(frozen=True)
class Answer:
    ids: tuple[int, ...]  # with the token that ended it, if one did
    text: str
    truncated: bool  # it was as long as an answer may be
    logprobs: tuple[float, ...]  # as the engine computed them; of the first answers only


@dataclass(frozen=True)
class Prompt:
    ids: tuple[int, ...]
    text: str  # what a reward sees of it: the last message of the user
    target: str | None

    @classmethod
    def of(cls, example: Example, template: ChatTemplate) -> "Prompt":
        messages = up_to_question(example)
        return cls(tuple(template.encode(messages)), messages[-1]["content"], example.target)


def choose_path(model: GPT, machine: Machine, slots: int) -> str:
    """The value of `rollout.decoder`: the fastest path on this machine, in the precision of training."""

    def choose() -> str:
        with threads_kept(machine):
            return str(choose_decoder.decide(merged_copy(model), machine, slots, machine.dtype).path)

    return machine.world.broadcast_from_main(choose)


def with_path(settings: T, machine: Machine) -> T:
    """Settings of a run, with the decoder of its rollouts, where it has some. The path depends on the model's shape."""
    if not isinstance(settings, OnlineSettings | DPOSettings) or settings.rollout.decoder != "auto":
        return settings
    if isinstance(settings, DPOSettings) and not settings.align.reward:  # it samples answers to reward them
        return settings
    model, rollout = build(plain_config(settings.model), 0).to(machine.device), settings.rollout
    return replace(settings, rollout=replace(rollout, decoder=choose_path(model, machine, rollout.slots)))


def parse_path(text: str, machine: Machine) -> Path:
    """ "packed float32, 2 threads" → its parts"""
    found = re.fullmatch(rf"(.+) ({'|'.join(DTYPES)}), (\d+) threads?", text)
    kinds = {path.kind for path in choose_decoder.candidates(machine, machine.dtype)}
    if not found or found[1] not in kinds or found[2] != machine.dtype:
        examples = ", ".join(f"'{path}'" for path in choose_decoder.candidates(machine, machine.dtype))
        raise UserError(f"rollout.decoder cannot be '{text}' here", f"use auto, or one of {examples}")
    return Path(found[1], found[2], int(found[3]))


@contextmanager
def threads_kept(machine: Machine) -> Iterator[None]:
    """The block may set the number of threads; training continues with its own."""
    threads = machine.threads
    try:
        yield
    finally:
        set_threads(threads, machine.device)


class Generator:
    """Generates with the weights that the model has at the time of each call."""

    def __init__(self, config: RolloutConfig, machine: Machine, tokenizer: Tokenizer, stop_tokens: Ids) -> None:
        self.config, self.machine, self.tokenizer, self.stop_tokens = config, machine, tokenizer, tuple(stop_tokens)
        self._path = None if config.decoder == "auto" else parse_path(config.decoder, machine)
        self._decoder: FastDecoder | GraphDecoder | None = None

    def __call__(self, model: GPT, prompts: Sequence[Ids], samplings: Sequence[Sampling]) -> list[Answer]:
        was_training = model.training
        model.eval()
        try:
            with threads_kept(self.machine):
                engine = Engine(self._refreshed(model), self.tokenizer, prefill_chunk=PREFILL_CHUNK)
                return self._generate(engine, prompts, samplings)
        finally:
            model.train(was_training)

    def _generate(self, engine: Engine, prompts: Sequence[Ids], samplings: Sequence[Sampling]) -> list[Answer]:
        generations = []
        for number, (ids, sampling) in enumerate(zip(prompts, samplings, strict=True)):
            logprobs = 0 if number < CHECKED else None
            request = Request(tuple(ids), self.config.max_tokens, sampling, (), self.stop_tokens, logprobs)
            generations.append(engine.submit(request))
        while engine.step():
            pass
        return [to_answer(generation) for generation in generations]

    def _refreshed(self, model: GPT) -> FastDecoder | GraphDecoder:
        """The decoder with the weights that the model has now."""
        if self._path is None:
            self._path = parse_path(choose_path(model, self.machine, self.config.slots), self.machine)
        path, decoder = self._path, self._decoder
        set_threads(path.threads, self.machine.device)
        model = merged_copy(model)  # of its own: a decoder with CUDA graphs overwrites its weights later
        if decoder is None:
            self._decoder = decoder = choose_decoder.build_decoder(model, path, self.config.slots)
        elif isinstance(decoder, GraphDecoder):
            decoder.model.copy_(choose_decoder.build_lean(model, path))  # its graphs read the weights where they are
        else:
            decoder.model = choose_decoder.build_lean(model, path)
        return decoder


def to_answer(generation: Generation) -> Answer:
    if generation.finish_reason == "error":
        raise UserError(f"an answer could not be generated: {generation.error}", "use a lower --optim.lr")
    logprobs = tuple(each.logprob for each in generation.logprobs)
    return Answer(tuple(generation.tokens), generation.text, generation.finish_reason == "length", logprobs)


def episode_seed(seed: int, iteration: int, prompt: int, sample: int) -> int:
    """A pure function of the run's seed and the place of the episode."""
    digest = hashlib.sha256(f"episode {seed} {iteration} {prompt} {sample}".encode()).digest()
    return int.from_bytes(digest[:8])


def encode_prompts(examples: Sequence[Example], template: ChatTemplate, room: int) -> list[Prompt]:
    """Those of at most `room` tokens: the longest answer must fit in after them."""
    encoded = [Prompt.of(example, template) for example in examples]
    kept = [prompt for prompt in encoded if len(prompt.ids) <= room]
    if not kept:
        raise UserError(
            f"none of the {len(examples)} prompts leaves room for an answer: they may have {room} tokens at most",
            "use shorter answers (--rollout.max_tokens), shorter prompts, or a model with a larger context",
        )
    if len(kept) < len(encoded):
        notice(
            f"{len(encoded) - len(kept):,} of {len(encoded):,} prompts have more than {room} tokens and are not used"
        )
    return kept


def width(prompts: Sequence[Ids], answers: Sequence[Answer]) -> int:
    """T of the batch: every token but the last of an episode is an input."""
    return max(len(prompt) + len(answer.ids) - 1 for prompt, answer in zip(prompts, answers, strict=True))


def to_batch(prompts: Sequence[Ids], answers: Sequence[Answer], rewards: Sequence[float], T: int) -> Batch:
    """The tokens of the answers are targets. extra: rewards, truncated [B], engine_logprobs [B, T] (0: unknown)"""
    B = len(prompts)
    inputs, targets = torch.zeros(B, T, dtype=torch.long), torch.full((B, T), IGNORE)
    logprobs = torch.zeros(B, T)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids, end = (*prompt, *answer.ids), len(prompt) + len(answer.ids) - 1
        inputs[row, :end] = torch.tensor(ids[:-1])
        targets[row, len(prompt) - 1 : end] = torch.tensor(answer.ids)
        if answer.logprobs:
            logprobs[row, len(prompt) - 1 : end] = torch.tensor(answer.logprobs)
    truncated = torch.tensor([float(answer.truncated) for answer in answers])
    extra = {"rewards": torch.tensor(rewards, dtype=torch.float32), "truncated": truncated, "engine_logprobs": logprobs}
    return Batch(inputs, targets, extra)
