"""What the alignment methods share: examples that cannot be used, evaluations on held-out data, the sample of a run."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeVar

import torch

from fledge.alignment.config import AlignSettings
from fledge.alignment.setup import AlignSetup
from fledge.batches.loader import Batch
from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.core.formatting import counted
from fledge.core.progress import notice
from fledge.datasets.examples import Example
from fledge.evaluation.validation import Evaluation
from fledge.inference.generate import generate
from fledge.inference.sampler import KnownTokens, sampling_strategies
from fledge.model.gpt import GPT
from fledge.tokenizers.chat_template import Message
from fledge.tracking.events import Sample
from fledge.training.config import TrainConfig
from fledge.training.method import Interruptible
from fledge.training.objective import Objective

S = TypeVar("S", bound=AlignSettings)
T = TypeVar("T")


@dataclass(frozen=True)
class HeldOut:
    """Evaluates an objective on held-out batches: the mean loss, and the objective's metrics under `val/`.

    `dpo/accuracy` of the objective becomes `val/accuracy`. Batches go to the ranks in turn; a rank that has none left
    computes the last one again, as all FSDP ranks must run the same number of forward passes, and does not count it.
    """

    model: GPT
    objective: Objective
    batches: Sequence[Batch]
    machine: Machine
    train: TrainConfig
    interruptible: Interruptible
    about: str  # what is evaluated: "120 conversations"
    notes: Sequence[str] = ()  # facts about the run, printed with it

    @property
    def every(self) -> int:
        return (self.train.eval_every or 0) if self.batches else 0

    def notices(self) -> Iterator[str]:
        yield from self.notes
        if self.batches and self.train.eval_every:
            yield f"val: {self.about}, held out; evaluated every {self.train.eval_every:,} steps"

    @torch.no_grad()
    def evaluate(self) -> Evaluation:
        world, sums = self.machine.world, dict[str, torch.Tensor]()
        was_training = self.model.training
        self.model.eval()
        try:
            for start in self.interruptible(range(0, len(self.batches), world.size)):
                number = start + world.rank
                batch = self.batches[min(number, len(self.batches) - 1)].to(self.machine.device)
                with self.machine.autocast():
                    found = self.objective(self.model, batch)
                for name, parts in {"val/loss": (found.total, found.count), **found.metrics}.items():
                    part = torch.stack([each.double().cpu() for each in parts]) * (number < len(self.batches))
                    sums[name] = sums.get(name, 0) + part
        finally:
            self.model.train(was_training)
        totals, counts = world.all_reduce_sum(torch.stack(list(sums.values()))).unbind(1)
        means = dict(zip(sums, (totals / counts).tolist(), strict=True))
        metrics = {f"val/{name.rpartition('/')[2]}": mean for name, mean in means.items()}
        return Evaluation(metrics["val/loss"], metrics)


def usable(found: Sequence[T | str], kind: type[T], noun: str, hint: str) -> list[T]:
    """Encoded examples, or why one cannot be used. Those are left out and counted in a notice; UserError where all are.

    noun: "pair". hint: what an example needs.
    """
    kept = [each for each in found if isinstance(each, kind)]
    left_out = Counter(each for each in found if isinstance(each, str))
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.most_common())
    if not kept:
        raise UserError(f"there is no {noun} to train on: {reasons or 'the data is empty'}", hint)
    if left_out:
        notice(f"warning: {counted(left_out.total(), noun)} of {len(found):,} left out: {reasons}")
    return kept


def question(setup: AlignSetup[S]) -> list[Message]:
    """The conversation that samples answer: `track.prompt`, or the first held-out example up to its last question."""
    if prompt := setup.settings.track.prompt:
        return [{"role": "user", "content": prompt}]
    return up_to_question((setup.val or setup.train)[0])


def up_to_question(example: Example) -> list[Message]:
    """Its messages without the answer at the end."""
    messages = list(example.messages)
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    return messages


def sample_answer(model: GPT, setup: AlignSetup[S], step: int, interruptible: Interruptible) -> Sample:
    """The model's answer to `question`: the same question every time, so that samples show what changes."""
    messages, track, machine = question(setup), setup.settings.track, setup.machine
    room = model.config.context - 1
    prompt = setup.template.encode(messages)[-room:]
    count = min(track.sample_tokens, room + 1 - len(prompt))
    strategies = (KnownTokens(setup.tokenizer.vocab_size), *sampling_strategies(track.temperature))
    drawn = generate(model, torch.tensor([prompt]), strategies, machine, count, setup.settings.train.seed)
    tokens = (int(token) for token in interruptible(drawn))
    answer = takewhile(lambda token: token not in setup.template.stop_tokens, tokens)
    text = b"".join(map(setup.tokenizer.id_to_bytes, answer)).decode("utf-8", "replace")
    return Sample(step, f"user: {messages[-1]['content']}\nassistant: ", text)
