"""The smallest setup of a method: prompts, a reward by rule, and a policy of random weights."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, get_type_hints

from fledge.alignment.config import METHOD_SETTINGS, AlignSettings
from fledge.alignment.setup import AlignSetup, Reward
from fledge.core.config import Layer, build, merge
from fledge.core.device import Machine
from fledge.core.distributed import SINGLE_PROCESS, World
from fledge.datasets.examples import Example
from fledge.model.gpt import GPT
from fledge.model.init import build as build_model
from tiny_chat import chat_template, chat_tokenizer

TOKENIZER = chat_tokenizer()
TINY: Layer = {
    "align": {"method": "ppo"},
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "context": 40, "vocab_size": TOKENIZER.vocab_size},
    "train": {"batch": 4, "steps": 6, "seed": 3, "device": "cpu", "dtype": "float32", "compile": False},
    "rollout": {"prompts": 4, "max_tokens": 6, "slots": 4, "decoder": "plain float32, 1 thread"},
}


def vowels(_prompt: str, answer: str, _target: str | None) -> float:
    """The share of low bytes: different for almost every answer of a model of random weights."""
    return sum(ord(c) % 7 for c in answer) / 10


def questions(count: int) -> list[Example]:
    return [Example(({"role": "user", "content": f"{'ab' * (i % 3)}{i}"},), target=str(i)) for i in range(count)]


def policy(setup: AlignSetup[Any], seed: int = 1, scale: float = 3.0) -> GPT:
    """Weights so large that its distributions are far from uniform."""
    model = build_model(setup.settings.model, seed)
    for p in model.parameters():
        if p.ndim > 1:
            p.data.mul_(scale)
    return model


def make_setup(
    method: str = "ppo",
    layer: Layer | None = None,
    *,
    examples: Sequence[Example] | None = None,
    reward: Reward = vowels,
    world: World = SINGLE_PROCESS,
) -> AlignSetup[Any]:
    kind: type[AlignSettings] = METHOD_SETTINGS[method]
    known = get_type_hints(kind)
    tiny = {name: keys for name, keys in {**TINY, "align": {"method": method}}.items() if name in known}
    settings = build(kind, merge(tiny, layer or {}))
    examples = questions(10) if examples is None else examples
    machine = Machine("cpu", "float32", world)

    setup = AlignSetup(
        settings,
        machine,
        TOKENIZER,
        chat_template(TOKENIZER),
        examples,
        questions(6),
        "fingerprint",
        _unset_reference,
        reward,
    )
    reference: Callable[[], GPT] = lambda: copy.deepcopy(policy(setup)).eval().requires_grad_(False)  # noqa: E731
    return replace(setup, reference=reference)


def _unset_reference() -> GPT:
    raise AssertionError
