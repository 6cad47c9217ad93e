"""Pretraining: the next token of every window of a dataset."""

from collections.abc import Iterator, Mapping

from fledge.checkpoint.state import Stateful
from fledge.core.device import Machine
from fledge.datasets.shards import Dataset
from fledge.evaluation.validation import Schedule, Validation
from fledge.inference.generate import stream_text
from fledge.inference.sampler import sampling_strategies
from fledge.model.gpt import GPT
from fledge.runs.methods import PRETRAIN
from fledge.tracking.events import Sample
from fledge.training.config import Settings
from fledge.training.method import Interruptible
from fledge.training.setup import NextToken, learned_tokens
from fledge.training.step import StepResult


class Pretraining(NextToken):
    name = PRETRAIN

    def __init__(self, settings: Settings, machine: Machine, dataset: Dataset) -> None:
        super().__init__(settings, machine, dataset.split("train"))
        self.dataset, self.tokenizer, self.fingerprint = dataset, dataset.tokenizer, dataset.fingerprint

    def evaluations(self, model: GPT, interruptible: Interruptible) -> Validation:
        train = self.settings.train
        schedule = Schedule(train.steps, self.settings.step_tokens, train.eval_every or 0, train.eval_tokens)
        return Validation(model, self.dataset, self.machine, schedule, interruptible)

    def sample(self, model: GPT, step: int, interruptible: Interruptible) -> Sample:
        track, seed = self.settings.track, self.settings.train.seed
        prompt, strategy = track.prompt or "", sampling_strategies(track.temperature)
        pieces = stream_text(model, self.tokenizer, prompt, strategy, self.machine, track.sample_tokens, seed)
        return Sample(step, prompt, "".join(interruptible(pieces)))

    def metrics(self, step: int) -> Mapping[str, float]:
        return {"train/tokens": learned_tokens(self.settings, len(self.split), step)}  # since the start of the run

    def check(self, _: StepResult, /) -> Iterator[str]:
        return iter(())

    def components(self) -> Mapping[str, Stateful]:
        return {}
