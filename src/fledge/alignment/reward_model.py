"""A reward model: learns from pairs of answers to give each answer a number, larger for those that people prefer.

The reward r of an answer is what the value head gives at its last token, the one that ends the turn. For a chosen
answer y_w and a rejected one y_l to the same prompt, with Δ = r(y_w) - r(y_l), the loss of a pair is

    - log σ(Δ) + c · (r(y_w) + r(y_l))²          c = reward.center: only differences are learned; this fixes the level

σ(Δ) is the probability that the chosen answer is the better one (the model of Bradley and Terry); calibration compares
it with how often it is.

pairs → encode (preferences.py) → RewardObjective      a finished run → ScoreModel (reward_scores.py): a reward for PPO
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fledge.alignment.config import RewardConfig, RewardSettings
from fledge.alignment.preferences import Pair, PairReader, encode_pairs
from fledge.alignment.reward_scores import (
    CalibrationBin,
    calibration,
    calibration_error,
    pair_rewards,
    prefers_chosen,
    score_pairs,
)
from fledge.alignment.setup import AlignSetup
from fledge.batches.loader import Batch
from fledge.checkpoint.state import Stateful
from fledge.core.device import Machine
from fledge.core.formatting import counted
from fledge.evaluation.validation import Evaluation
from fledge.model.gpt import GPT
from fledge.model.lora import freeze_base
from fledge.tracking.events import Sample
from fledge.training.config import TrainConfig
from fledge.training.method import Interruptible
from fledge.training.objective import LossSum, Objective
from fledge.training.setup import loaded_batches
from fledge.training.step import MicroBatches, StepResult


def pair_loss(rewards: Tensor, config: RewardConfig) -> Tensor:
    """Rewards [B, 2] → the loss of each pair [B]"""
    chosen, rejected = rewards.unbind(-1)
    return config.center * (chosen + rejected).square() - F.logsigmoid(chosen - rejected)


@dataclass(frozen=True)
class RewardObjective:
    """Per pair."""

    config: RewardConfig

    def count(self, batch: Batch) -> Tensor:
        return torch.full((), len(batch.inputs), device=batch.inputs.device)

    def __call__(self, model: GPT, batch: Batch) -> LossSum:
        count, rewards = self.count(batch), pair_rewards(model, batch)
        metrics = {
            "reward/accuracy": prefers_chosen(rewards),
            "reward/margin": rewards[:, 0] - rewards[:, 1],
            "reward/chosen": rewards[:, 0],
            "reward/rejected": rewards[:, 1],
        }
        return LossSum(
            pair_loss(rewards, self.config).sum(), count, {name: (each.sum(), count) for name, each in metrics.items()}
        )


class RewardModel:
    name = "reward"

    def __init__(self, setup: AlignSetup[RewardSettings]) -> None:
        self.setup, self.config = setup, setup.settings.reward
        self.tokenizer, self.fingerprint = setup.tokenizer, setup.fingerprint
        self.room = setup.settings.model.context - 1  # for inputs without the last token
        self.pairs = encode_pairs(setup.train, setup.template, self.room)
        self.held_out = encode_pairs(setup.val, setup.template, self.room) if setup.val else []

    def transform(self, model: GPT) -> GPT:
        """The token head takes no part; where it is the embedding, that does."""
        for weight in freeze_base(model).head.parameters():
            weight.requires_grad_(weight is model.embed.weight and weight.requires_grad)
        return model

    def objective(self, *, compile: bool) -> Objective:  # noqa: ARG002
        return RewardObjective(self.config)

    def batches(self, model: GPT, objective: Objective) -> MicroBatches:
        reader = PairReader(self.pairs, self.room, self.setup.settings.train.seed)
        return loaded_batches(self.setup.settings, self.setup.machine, reader, model, objective)

    def evaluations(self, model: GPT, interruptible: Interruptible) -> "RewardModelEvaluations":
        train, machine = self.setup.settings.train, self.setup.machine
        return RewardModelEvaluations(model, self.held_out, self.room, self.config, machine, train, interruptible)

    def sample(self, model: GPT, step: int, interruptible: Interruptible) -> Sample:
        """The rewards of the two answers of a held-out pair."""
        example = (self.setup.val or self.setup.train)[0]
        pair = (self.held_out or self.pairs)[0]
        [rewards] = score_pairs(model, [pair], self.room, self.setup.machine, interruptible).tolist()
        asked = self.tokenizer.decode(pair.prompt)
        answers = [self.tokenizer.decode(ids) for ids in (pair.chosen, pair.rejected)]
        names = ("chosen", "rejected")
        lines = [f"{name} {r:+.3f}: {text}" for name, r, text in zip(names, rewards, answers, strict=True)]
        prompt = example.messages[-1]["content"] if example.messages else asked
        return Sample(step, f"user: {prompt}\n", "\n".join(lines), rewards[0] - rewards[1])

    def metrics(self, step: int) -> Mapping[str, float]:
        return {"train/epoch": step * self.setup.settings.train.batch / len(self.pairs)}

    def check(self, result: StepResult, /) -> Iterator[str]:  # noqa: ARG002
        yield from ()

    def components(self) -> Mapping[str, Stateful]:
        return {}


@dataclass(frozen=True)
class RewardModelEvaluation(Evaluation):
    calibration: Sequence[CalibrationBin] = ()


@dataclass(frozen=True)
class RewardModelEvaluations:
    """On all held-out pairs."""

    model: GPT
    pairs: Sequence[Pair]
    context: int  # of the inputs
    config: RewardConfig
    machine: Machine
    train: TrainConfig
    interruptible: Interruptible

    @property
    def every(self) -> int:
        return (self.train.eval_every or 0) if self.pairs else 0

    def notices(self) -> Iterator[str]:
        if self.pairs and self.train.eval_every:
            yield f"val: {counted(len(self.pairs), 'pair')}, held out; evaluated every {self.train.eval_every:,} steps"

    def evaluate(self) -> RewardModelEvaluation:
        rewards = score_pairs(self.model, self.pairs, self.context, self.machine, self.interruptible)
        loss, bins = float(pair_loss(rewards, self.config).mean()), calibration(rewards)
        (chosen, rejected), (chosen_std, rejected_std) = rewards.mean(0).tolist(), rewards.std(0, correction=0).tolist()
        metrics = {
            "val/loss": loss,
            "val/accuracy": float(prefers_chosen(rewards).mean()),
            "val/calibration_error": calibration_error(bins),
            "val/margin": chosen - rejected,
            "val/chosen": chosen,
            "val/chosen_std": chosen_std,
            "val/rejected": rejected,
            "val/rejected_std": rejected_std,
        }
        return RewardModelEvaluation(loss, metrics, bins)
