"""Pairs of answers → batches, for DPO and reward models.

    examples  →  encode_pairs  →  pairs: ids of the prompt, of the chosen and of the rejected answer
    pairs     →  pair_batch    →  inputs, targets [B, 2, T]: chosen first

A row of a batch is a pair, so splitting a batch never separates the two answers. Targets count (are not IGNORE) in the
answer and in the token that ends it; a sum of log-probabilities over a row is that of the answer.

    prompt  <|user|> Hi <|end|> <|assistant|>      answer  Hello ! <|end|>

    inputs   <|user|>  Hi    <|end|>  <|assistant|>  Hello  !        0 0
    targets  -1        -1    -1       Hello          !      <|end|>  -1 -1
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fledge.alignment.common import usable
from fledge.batches.loader import Batch
from fledge.batches.sampler import shuffled
from fledge.core.progress import progress
from fledge.datasets.examples import Example
from fledge.losses.cross_entropy import IGNORE
from fledge.tokenizers.chat_template import ChatTemplate, Message
from fledge.training.config import TrainConfig

Ids = NDArray[np.int32]
TILE = 16  # the length of a batch is a multiple of it, so that few shapes occur
INCOMPLETE, EMPTY = "without a prompt and two answers", "with an empty answer"
EQUAL, LONG = "with equal answers", "too long for the context"


@dataclass(frozen=True)
class Pair:
    """Ids. An answer ends with the token that ends the assistant's turn."""

    prompt: Ids
    chosen: Ids
    rejected: Ids

    @property
    def length(self) -> int:
        """Tokens of the longer sequence that the model reads: the last token of an answer is a target only."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected)) - 1


def drawn_examples(examples: Sequence[Example], train: TrainConfig) -> Sequence[Example]:
    """Those that a run reads: where there are more than it takes samples, a pseudo-random part."""
    samples = train.steps * train.batch
    if samples >= len(examples):
        return examples
    return [examples[n] for n in shuffled(0, samples, len(examples), train.seed)]


def encode_pairs(examples: Sequence[Example], template: ChatTemplate, context: int) -> list[Pair]:
    """Pairs that cannot be used are left out and counted in a notice; UserError where none can."""
    found = [_encode_pair(each, template, context) for each in progress(examples, "encoding pairs")]
    hint = f"an example needs a prompt and two different answers, 'chosen' and 'rejected', within {context:,} tokens"
    return usable(found, Pair, "pair", hint)


def _encode_pair(example: Example, template: ChatTemplate, context: int) -> Pair | str:
    """Or why it cannot be used."""
    if not example.messages or example.chosen is None or example.rejected is None:
        return INCOMPLETE
    if not example.chosen.strip() or not example.rejected.strip():
        return EMPTY
    messages: Sequence[Message] | None = example.messages
    while messages:
        before_chosen, chosen = encode_answer(template, messages, example.chosen)
        before_rejected, rejected = encode_answer(template, messages, example.rejected)
        same = min(len(before_chosen), len(before_rejected))  # they differ where a token reaches into an answer
        chosen, rejected = before_chosen[same:] + chosen, before_rejected[same:] + rejected
        if chosen == rejected:
            return EQUAL
        pair = Pair(*(np.array(ids, dtype=np.int32) for ids in (before_chosen[:same], chosen, rejected)))
        if pair.length <= context:
            return pair
        messages = without_first_turn(messages)
    return LONG


def encode_answer(template: ChatTemplate, messages: Sequence[Message], answer: str) -> tuple[list[int], list[int]]:
    """→ the ids before the answer, and those of the answer with the token that ends it."""
    prompt = template.encode(messages)
    whole = template.encode([*messages, {"role": "assistant", "content": answer}], add_generation_prompt=False)
    same = next(
        (n for n, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), min(len(prompt), len(whole))
    )
    ends = [n for n in range(same, len(whole)) if whole[n] in template.stop_tokens]
    return whole[:same], whole[same : ends[-1] + 1 if ends else None]


def without_first_turn(messages: Sequence[Message]) -> list[Message] | None:
    """The conversation from the user's second message on, with the system message. None where there is no second."""
    system = [each for each in messages[:1] if each["role"] in ("system", "developer")]
    asked = [n for n, each in enumerate(messages) if each["role"] == "user"]
    return [*system, *messages[asked[1] :]] if len(asked) > 1 else None


def pair_batch(pairs: Sequence[Pair], context: int, extra: Mapping[str, Tensor] | None = None) -> Batch:
    """Inputs and targets [B, 2, T], padded on the right to one T: the longest, up to a multiple of TILE."""
    length = min(context, -(-max(pair.length for pair in pairs) // TILE) * TILE)
    inputs = torch.zeros(len(pairs), 2, length, dtype=torch.long)
    targets = torch.full_like(inputs, IGNORE)
    for row, pair in enumerate(pairs):
        for side, answer in enumerate((pair.chosen, pair.rejected)):
            ids, begin = torch.from_numpy(np.concatenate((pair.prompt, answer))).long(), len(pair.prompt) - 1
            inputs[row, side, : len(ids) - 1] = ids[:-1]
            targets[row, side, begin : len(ids) - 1] = ids[begin + 1 :]
    return Batch(inputs, targets, extra or {})


@dataclass(frozen=True)
class PairReader:
    """First sample, count → Batch, for a Loader. Which pair is sample n is a pure function of (seed, n).

    extra: additional inputs of the objective for each pair, name → [N, …].
    """

    pairs: Sequence[Pair]
    context: int
    seed: int
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __call__(self, first: int, count: int) -> Batch:
        chosen = shuffled(first, count, len(self.pairs), self.seed)
        extra = {name: values[torch.from_numpy(chosen)] for name, values in self.extra.items()}
        return pair_batch([self.pairs[n] for n in chosen], self.context, extra)
