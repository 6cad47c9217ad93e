"""What REINFORCE, PPO and GRPO share: a policy answers prompts, a reward scores the answers, and updates follow.

A method of this kind is its `prepare` (episodes → what the objective needs of them), its objective, and its settings.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from fledge.alignment.common import HeldOut, question, sample_answer
from fledge.alignment.config import AlignSettings, RolloutConfig
from fledge.alignment.on_policy import Each, OnPolicyBatches, answer_logprobs
from fledge.alignment.rollout import Answer, Generator, Prompt, encode_prompts, episode_seed, to_batch, width
from fledge.alignment.scoring import clip, score
from fledge.alignment.setup import AlignSetup, Reward
from fledge.batches.loader import Batch
from fledge.checkpoint.state import Stateful
from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.evaluation.validation import Evaluation
from fledge.inference.request import Sampling
from fledge.losses.cross_entropy import IGNORE
from fledge.model.gpt import GPT
from fledge.model.head import Head
from fledge.model.lora import freeze_base
from fledge.tracking.events import Sample
from fledge.training.divergence import NotLearning
from fledge.training.method import Interruptible
from fledge.training.objective import Objective
from fledge.training.step import StepResult

S = TypeVar("S", bound=AlignSettings)
KL_ROWS = 16  # answers scored at once
HELD_OUT = -1  # in place of the number of an iteration: seeds of evaluations


class OnlineMethod(ABC, Generic[S]):
    name = ""
    samples, epochs = 1, 1  # answers to a prompt; how often an update sees each episode
    temperature: float | None = None  # of held-out answers; None: that of rollouts, 0: greedy

    def __init__(self, setup: AlignSetup[S], rollout: RolloutConfig) -> None:
        if setup.reward is None:
            raise UserError(f"{self.name} needs a reward", "give --reward: a reward model's run, FILE.py or a task")
        if setup.settings.train.parallel == "fsdp":
            raise UserError(f"{self.name} cannot train with FSDP", "use --train.parallel ddp")
        if setup.settings.model.dropout:
            raise UserError(
                f"{self.name} cannot train with dropout: the policy would not be the model that answered",
                "use --model.dropout 0",
            )
        self.setup, self.rollout, self.reward = setup, rollout, setup.reward
        self.tokenizer, self.fingerprint = setup.tokenizer, setup.fingerprint
        self._batches: OnPolicyBatches | None = None

    @abstractmethod
    def prepare(self, batch: Batch, each: Each, /) -> tuple[Mapping[str, Tensor], Mapping[str, float]]:
        """See `Prepare` in on_policy.py."""

    @abstractmethod
    def objective(self, *, compile: bool) -> Objective: ...

    def logprobs_of(self, model: GPT, each: Each) -> Tensor:
        """Of all tokens of the answers of the iteration, under another model than the policy. [N, T]"""
        return each(partial(answer_logprobs, model, machine=self.setup.machine, temperature=self.rollout.temperature))

    def transform(self, model: GPT) -> GPT:
        return freeze_base(model)

    def batches(self, model: GPT, objective: Objective) -> OnPolicyBatches:  # noqa: ARG002
        self._batches = OnPolicyBatches(
            self.setup, self.rollout, model, self.prepare, samples=self.samples, epochs=self.epochs
        )
        return self._batches

    def evaluations(self, model: GPT, interruptible: Interruptible) -> "RewardEvaluations":
        return RewardEvaluations(self.setup, self.rollout, self.reward, model, interruptible, self.temperature)

    def sample(self, model: GPT, step: int, interruptible: Interruptible) -> Sample:
        return rewarded_answer(model, self.setup, step, interruptible)

    def metrics(self, step: int) -> Mapping[str, float]:  # noqa: ARG002
        return self._batches.metrics() if self._batches else {}

    def check(self, result: StepResult, /) -> Iterator[str]:  # noqa: ARG002
        yield from self._batches.warnings() if self._batches else ()

    def updates(self, **tensors: Tensor) -> Iterator[list[Batch]]:
        """The batches of this rank of all updates of the iteration, with these tensors [N, …] in `extra`."""
        assert self._batches is not None, "batches() comes first"
        return self._batches.updates(**tensors)

    def components(self) -> Mapping[str, Stateful]:
        return {"rollout": self._batches} if self._batches else {}


def check_kl(section: str, kl: float, limit: float, step: int, hint: str) -> None:
    """Stop a policy that runs away from its reference. kl: nats of an answer; limit 0: none."""
    if limit and kl > limit:
        raise NotLearning(
            f"the policy ran away from the reference: their KL divergence is {kl:.1f} nats an answer at step {step},"
            f" and {section}.kl_limit is {limit:g}; the checkpoints before this step are kept",
            hint,
        )


def rewarded_answer(model: GPT, setup: AlignSetup[S], step: int, interruptible: Interruptible) -> Sample:
    """The answer to a held-out prompt, with its reward where there is one."""
    found = sample_answer(model, setup, step, interruptible)
    if setup.reward is None:
        return found
    asked = bool(setup.settings.track.prompt)  # a question of the user has no right answer
    target = None if asked else (setup.val or setup.train)[0].target
    return replace(found, reward=score(setup.reward, question(setup)[-1]["content"], found.text, target))


class RewardEvaluations:
    """Answers to held-out prompts, each with the same seed every time, and their rewards."""

    def __init__(
        self,
        setup: AlignSetup[Any],
        rollout: RolloutConfig,
        reward: Reward,
        model: GPT,
        interruptible: Interruptible,
        temperature: float | None = None,
        reference: GPT | None = None,
    ) -> None:
        """reference: also measure how far the answers are from it."""
        self.train, self.machine, self.model, self.rollout = setup.settings.train, setup.machine, model, rollout
        self.reward, self.reference, self._interruptible = reward, reference, interruptible
        self.temperature = rollout.temperature if temperature is None else temperature
        room = setup.settings.model.context - rollout.max_tokens + 1
        self.prompts: Sequence[Prompt] = encode_prompts(setup.val, setup.template, room) if setup.val else []
        self.has_targets = all(prompt.target is not None for prompt in self.prompts)
        self._generate = Generator(rollout, setup.machine, setup.tokenizer, setup.template.stop_tokens)

    @property
    def every(self) -> int:
        return (self.train.eval_every or 0) if self.prompts else 0

    def evaluate(self) -> Evaluation:
        world = self.machine.world
        places = range(world.rank, len(self.prompts), world.size)
        sums = torch.zeros(7, dtype=torch.double)  # count, rewards, squares, tokens, truncated, exact matches, KL
        pieces = [places[n : n + 4 * self.rollout.slots] for n in range(0, len(places), 4 * self.rollout.slots)]
        for piece in self._interruptible(pieces):
            sums += self._evaluate(piece)
        count, total, squares, tokens, truncated, matches, kl = world.all_reduce_sum(sums).tolist()
        mean = total / count
        variance = max(0.0, squares / count - mean**2)
        return Evaluation(
            -mean,
            {
                "val/reward": mean,
                "val/reward_error": math.sqrt(variance / count),  # standard error of the mean
                "val/length": tokens / count,
                "val/truncated": truncated / count,
                **({"val/exact_match": matches / count} if self.has_targets else {}),
                **({"val/kl": kl / count} if self.reference else {}),  # nats of an answer
            },
        )

    def _evaluate(self, places: Sequence[int]) -> Tensor:
        prompts = [self.prompts[place] for place in places]
        seeds = [episode_seed(self.train.seed, HELD_OUT, place, 0) for place in places]
        samplings = [Sampling(temperature=self.temperature, seed=seed) for seed in seeds]
        answers = self._generate(self.model, [prompt.ids for prompt in prompts], samplings)
        rewards = [
            score(self.reward, prompt.text, answer.text, prompt.target)
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        rows = torch.tensor(clip(rewards, self.rollout.reward_clip), dtype=torch.double)
        lengths = float(sum(len(answer.ids) for answer in answers))
        truncated = float(sum(answer.truncated for answer in answers))
        matches = sum(answer.text.strip() == prompt.target for prompt, answer in zip(prompts, answers, strict=True))
        kl = self._kl(self.reference, prompts, answers) if self.reference else 0.0
        found = [len(rows), float(rows.sum()), float(rows.square().sum()), lengths, truncated, matches, kl]
        return torch.tensor(found, dtype=torch.double)

    def _kl(self, reference: GPT, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> float:
        """Summed over the answers."""
        ids = [prompt.ids for prompt in prompts]
        batch = to_batch(ids, answers, [0.0] * len(ids), width(ids, answers)).to(self.machine.device)
        was_training = self.model.training
        self.model.eval()
        found = sum(answer_kl(self.model, reference, piece, self.machine) for piece in batch.split(KL_ROWS))
        self.model.train(was_training)
        return found

    def notices(self) -> Iterator[str]:
        if self.prompts and self.train.eval_every:
            yield f"val: {len(self.prompts)} held-out prompts; answered every {self.train.eval_every:,} steps"


@torch.no_grad()
def answer_kl(model: GPT, reference: GPT, batch: Batch, machine: Machine) -> float:
    """KL(π ‖ π_ref) in nats, over the whole vocabulary, summed over the tokens of the answers. Never negative."""

    def logprobs(hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
        return head.padded(hidden[targets != IGNORE]).float().log_softmax(-1)

    with machine.autocast():
        ours, theirs = (each.forward_loss(batch.inputs, batch.targets, logprobs) for each in (model, reference))
    return float((ours.exp() * (ours - theirs)).sum())


@dataclass(frozen=True)
class WithRewards:
    """An evaluation on held-out batches, and answers to held-out prompts with it.

    The best checkpoint is that of the highest reward: the loss of pairs still falls when the answers get worse.
    """

    held_out: HeldOut
    rewards: RewardEvaluations

    @property
    def every(self) -> int:
        return self.held_out.every

    def evaluate(self) -> Evaluation:
        found, rewarded = self.held_out.evaluate(), self.rewards.evaluate()
        return Evaluation(rewarded.loss, {**found.metrics, **rewarded.metrics})

    def notices(self) -> Iterator[str]:
        yield from self.held_out.notices()
        yield from self.rewards.notices()
