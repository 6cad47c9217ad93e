"""Supervised fine-tuning (SFT): learn the answers of conversations.

    loss = − Σ log p(token | the conversation before it)  /  answer tokens      over the tokens of answers only

Questions and role tokens are read, not learned. An answer counts with the token that ends it, so the model learns to
stop. Several conversations share a row (batches/packing.py), and none sees another (model/packed.py).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from fledge.alignment.common import HeldOut, sample_answer, usable
from fledge.alignment.config import AlignSettings
from fledge.alignment.preferences import without_first_turn
from fledge.alignment.setup import AlignSetup
from fledge.batches.loader import Batch
from fledge.batches.packing import Conversation, PackedReader
from fledge.checkpoint.state import Stateful
from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.core.formatting import counted, printable, shorten
from fledge.core.progress import progress
from fledge.datasets.examples import Example
from fledge.evaluation.loss import eval_batch_size, loss_and_correct
from fledge.evaluation.validation import Evaluation
from fledge.losses.cross_entropy import IGNORE, count_valid
from fledge.model.gpt import GPT, HeadLoss
from fledge.model.head import Head
from fledge.model.lora import freeze_base
from fledge.model.packed import PackedCache
from fledge.tokenizers.chat_template import ChatTemplate, Message
from fledge.tracking.events import Sample
from fledge.training.method import Interruptible
from fledge.training.objective import LossSum, Objective, next_token_objective
from fledge.training.setup import loaded_batches
from fledge.training.step import MicroBatches, StepResult

NO_ANSWER, EMPTY, LONG = "without an answer", "with an empty answer", "too long for the context"
SHOWN = 60  # characters of a conversation in an error message
MAX_EXPONENT = 700.0  # e to more is no float


@dataclass(frozen=True)
class AnswerLoss:
    """The loss of the answers in packed rows, in nats per answer token."""

    head_loss: HeadLoss

    def count(self, batch: Batch) -> Tensor:
        return count_valid(batch.targets)

    def __call__(self, model: GPT, batch: Batch) -> LossSum:
        cache = PackedCache(model.config, batch.extra["positions"])
        return LossSum(model.forward_loss(batch.inputs, batch.targets, self.head_loss, cache), self.count(batch))


@dataclass(frozen=True)
class OnlyAnswers:
    """Applies the head to the tokens that count only: logits of the others would be thrown away."""

    head_loss: HeadLoss

    def __call__(self, hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
        answers = (targets != IGNORE).flatten().nonzero().squeeze(1)  # [N]
        return self.head_loss(hidden.flatten(0, -2)[answers], head, targets.flatten()[answers])


def answer_objective(machine: Machine, *, chunked: bool = False, compile: bool = False) -> AnswerLoss:
    """Compiled code needs the same shapes at every step, so there the head is applied to all tokens."""
    head_loss = next_token_objective(machine, chunked=chunked, compile=compile).head_loss
    return AnswerLoss(head_loss if compile else OnlyAnswers(head_loss))


class AnswerAccuracy(AnswerLoss):
    """Also how many answer tokens got the highest logit."""

    def __init__(self) -> None:
        super().__init__(loss_and_correct)

    def __call__(self, model: GPT, batch: Batch) -> LossSum:
        found = super().__call__(model, batch)
        nats, correct = found.total.sum(0)
        return LossSum(nats, found.count, {"sft/accuracy": (correct, found.count)})


class HeldOutAnswers(HeldOut):
    def evaluate(self) -> Evaluation:
        found = super().evaluate()
        return replace(found, metrics={**found.metrics, "val/perplexity": math.exp(min(found.loss, MAX_EXPONENT))})


class SFT:
    name = "sft"

    def __init__(self, setup: AlignSetup[AlignSettings]) -> None:
        self.setup, self.settings, self.machine = setup, setup.settings, setup.machine
        self.tokenizer, self.fingerprint = setup.tokenizer, setup.fingerprint
        context, seed = self.settings.model.context, self.settings.train.seed
        self.train = PackedReader(encode_conversations(setup.train, setup.template, context), context, seed)
        held_out = encode_conversations(setup.val, setup.template, context) if setup.val else []
        self.val = PackedReader(held_out, context, seed)

    def transform(self, model: GPT) -> GPT:
        return freeze_base(model)

    def objective(self, *, compile: bool) -> AnswerLoss:
        return answer_objective(self.machine, chunked=self.settings.train.chunked_loss is True, compile=compile)

    def batches(self, model: GPT, objective: Objective) -> MicroBatches:
        return loaded_batches(self.settings, self.machine, self.train, model, objective)

    def evaluations(self, model: GPT, interruptible: Interruptible) -> HeldOutAnswers:
        size = eval_batch_size(model.config.context, model.head.out_features, self.machine)
        rows = range(len(self.val.rows))
        batches = [self.val.batch(rows[start : start + size]) for start in rows[::size]]
        about = counted(len(self.val.conversations), "conversation")
        train, notes = self.settings.train, [self._note()]
        return HeldOutAnswers(model, AnswerAccuracy(), batches, self.machine, train, interruptible, about, notes)

    def _note(self) -> str:
        train, context = self.train, self.train.context
        answers = sum(each.is_answer.sum() for each in train.conversations) / sum(
            len(each.ids) for each in train.conversations
        )
        count, rows = counted(len(train.conversations), "conversation"), counted(len(train.rows), "row")
        shares = f"{100 * train.filled:.0f} % full; {100 * answers:.0f} % are answers"
        return f"{count} in {rows} of {context:,} tokens, {shares}"

    def sample(self, model: GPT, step: int, interruptible: Interruptible) -> Sample:
        return sample_answer(model, self.setup, step, interruptible)

    def metrics(self, step: int) -> Mapping[str, float]:
        rows = step * self.settings.train.batch
        return {"train/tokens": rows * self.settings.model.context, "train/epoch": rows / len(self.train.rows)}

    def check(self, _: StepResult, /) -> Iterator[str]:
        return iter(())

    def components(self) -> Mapping[str, Stateful]:
        return {}


def encode_conversations(examples: Sequence[Example], template: ChatTemplate, context: int) -> list[Conversation]:
    """Those that cannot be used are left out and counted in a notice; UserError where none can."""
    found = [_encode_named(each, template, context) for each in progress(examples, "encoding conversations")]
    hint = f"a conversation needs a question and an answer within the context of {context:,} tokens"
    return usable(found, Conversation, "conversation", hint)


def _encode_named(example: Example, template: ChatTemplate, context: int) -> Conversation | str:
    try:
        return _encode(example, template, context)
    except UserError as error:
        words = " ".join(message["content"] for message in example.messages).split()
        begin = shorten(printable(" ".join(words)), SHOWN)
        raise UserError(f"the conversation that begins '{begin}': {error.message}", error.hint) from None


def _encode(example: Example, template: ChatTemplate, context: int) -> Conversation | str:
    """As many of its last turns as fit, with the system message; or why it cannot be used."""
    answer = example.chosen if example.target is None else example.target
    if answer is None:
        return NO_ANSWER
    messages: list[Message] | None = [*example.messages, {"role": "assistant", "content": answer}]
    if any(each["role"] == "assistant" and not each["content"].strip() for each in messages or ()):
        return EMPTY
    while messages:
        ids, is_answer = template.encode_with_mask(messages)
        count = len(ids) - is_answer[::-1].index(True)  # what a template writes after the last answer teaches nothing
        if count <= context + 1:
            return Conversation(np.array(ids[:count], dtype=np.int32), np.array(is_answer[:count]))
        messages = without_first_turn(messages)
    return LONG
