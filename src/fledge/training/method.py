"""A training method: what is trained on what. Pretraining is one; SFT, DPO, PPO and GRPO are in alignment/.

The trainer owns the steps, hooks, checkpoints, rollback, signals and tracking, and is the same for all of them.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, TypeVar

from fledge.checkpoint.state import Stateful
from fledge.evaluation.validation import Evaluation
from fledge.model.gpt import GPT
from fledge.tokenizers.base import Tokenizer
from fledge.tracking.events import Sample
from fledge.training.objective import Objective
from fledge.training.step import MicroBatches, StepResult

T = TypeVar("T")


class Interruptible(Protocol):
    """Wraps a long loop, and raises out of it when the run shall stop."""

    def __call__(self, items: Iterable[T], /) -> Iterator[T]: ...


class Evaluations(Protocol):
    """The evaluations of a run. Those of pretraining (`Validation`) end with the whole split."""

    @property
    def every(self) -> int:
        """Steps between evaluations; the first is before the first step, the last after the last. 0: never."""

    def evaluate(self) -> Evaluation: ...

    def notices(self) -> Iterator[str]:
        """What is evaluated; printed before training."""


class Trainable(Protocol):
    """What an update needs of a method."""

    def transform(self, model: GPT) -> GPT:
        """Change the plain model before anything wraps it: freeze weights, for example."""

    def objective(self, *, compile: bool) -> Objective: ...

    def batches(self, model: GPT, objective: Objective) -> MicroBatches: ...


class Method(Trainable, Protocol):
    @property
    def name(self) -> str:
        """pretrain, sft, reward, dpo, ppo, grpo or reinforce."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def fingerprint(self) -> str:
        """A hash of the data: a checkpoint is resumed with the same data only."""

    def evaluations(self, model: GPT, interruptible: Interruptible) -> Evaluations: ...

    def sample(self, model: GPT, step: int, interruptible: Interruptible) -> Sample:
        """One text of the model as it is now."""

    def metrics(self, step: int) -> Mapping[str, float]:
        """What is logged beside the metrics of the step: tokens since the start, rewards of the rollout."""

    def check(self, result: StepResult, /) -> Iterator[str]:
        """Warnings about this step. Raises NotLearning where training cannot go on."""

    def components(self) -> Mapping[str, Stateful]:
        """What must survive a restart, besides the model, the optimizer and the generators."""
