"""Everything that an alignment method is built from: settings, data, template, reference model and reward."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from fledge.alignment.config import AlignSettings
from fledge.core.device import Machine
from fledge.datasets.examples import Example
from fledge.model.gpt import GPT
from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.chat_template import ChatTemplate

S = TypeVar("S", bound=AlignSettings)


class Reward(Protocol):
    """How good an answer is. `target`: the right answer, where the data has one."""

    def __call__(self, prompt: str, answer: str, target: str | None, /) -> float: ...


@dataclass(frozen=True)
class AlignSetup(Generic[S]):
    settings: S
    machine: Machine
    tokenizer: Tokenizer  # has the chat tokens
    template: ChatTemplate
    train: Sequence[Example]
    val: Sequence[Example]
    fingerprint: str  # of the data
    reference: Callable[[], GPT]  # a new copy of the initial policy: frozen, in evaluation mode, on the device
    reward: Reward | None = None
