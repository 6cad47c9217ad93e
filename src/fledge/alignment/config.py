"""The sections of an alignment run: [align] for every method, and those of the methods. Without torch."""

import math
from dataclasses import dataclass
from typing import Literal

from fledge.core.config import check_counts, setting
from fledge.core.errors import UserError
from fledge.training.config import Settings


def check_number(section: str, config: object, name: str, low: float, high: float = math.inf) -> None:
    value = getattr(config, name)
    if not low <= value <= high:
        limits = f"a number from {low:g} to {high:g}" if high < math.inf else f"a number of at least {low:g}"
        raise UserError(f"{section}.{name} cannot be {value}", f"use {limits}")


@dataclass(frozen=True)
class AlignConfig:
    method: Literal["sft", "reward", "dpo", "ppo", "grpo", "reinforce"] = setting("sft", "what the run trains with")
    init: str = setting("", "the run and checkpoint that training starts from; also the reference of DPO, PPO and GRPO")
    data: tuple[str, ...] = setting((), "files, folders, hf:// datasets or built-in tasks")
    examples: int = setting(10_000, "training examples that a built-in task makes")
    val: int = setting(200, "held-out examples; at most a tenth of a file")
    reward: tuple[str, ...] = setting((), "reward models (runs), FILE.py with a function reward(), or built-in tasks")
    reward_weights: tuple[float, ...] = setting((), "factor of each reward; unset: 1")

    def __post_init__(self) -> None:
        check_counts(self, "align", ["examples", "val"])


@dataclass(frozen=True)
class RewardConfig:
    center: float = setting(0.0, "weight of a loss that keeps the two rewards of a pair around zero; 0.01 is usual")

    def __post_init__(self) -> None:
        check_number("reward", self, "center", 0)


@dataclass(frozen=True)
class DPOConfig:
    loss: Literal["sigmoid", "sigmoid_norm", "robust", "ipo"] = setting(
        "sigmoid", "sigmoid: DPO; sigmoid_norm: per token; robust: unbiased with wrong labels; ipo: squared, per token"
    )
    beta: float = setting(0.1, "strength of the pull to the reference model: larger stays closer")
    label_smoothing: float = setting(0.0, "share of the pairs that may be labelled the wrong way round")

    def __post_init__(self) -> None:
        check_number("dpo", self, "beta", 1e-6, 1000)
        check_number("dpo", self, "label_smoothing", 0, 0.49)
        if self.loss == "ipo" and self.label_smoothing:
            raise UserError("dpo.loss = ipo has no label smoothing", "leave out dpo.label_smoothing, or use sigmoid")


@dataclass(frozen=True)
class RolloutConfig:
    prompts: int = setting(32, "prompts of a rollout")
    max_tokens: int = setting(64, "longest answer, in tokens")
    temperature: float = setting(1.0, "of sampling; 1: the policy itself")
    slots: int = setting(32, "answers generated at the same time")
    reward_clip: float = setting(0.0, "rewards beyond this size are cut to it; 0: no limit")
    decoder: str = setting("auto", "how the engine computes; auto: chosen once, and recorded")

    def __post_init__(self) -> None:
        check_counts(self, "rollout", ["prompts", "max_tokens", "slots"])
        check_number("rollout", self, "reward_clip", 0)
        check_number("rollout", self, "temperature", 0.01, 100)


@dataclass(frozen=True)
class ReinforceConfig:
    baseline: bool = setting(True, "subtract the mean reward of the rollout")
    kl_coef: float = setting(0.05, "penalty for each nat of divergence from the reference; 0: none")

    def __post_init__(self) -> None:
        check_number("reinforce", self, "kl_coef", 0)


@dataclass(frozen=True)
class PPOConfig:
    epochs: int = setting(4, "how often the updates see each answer of a rollout")
    clip: float = setting(0.2, "largest change of a token's probability that is rewarded, as a share")
    value_lr: float = setting(1e-3, "learning rate of the critic")
    value_clip: float = setting(0.0, "largest change of a value in a rollout that lowers its loss; 0: any")
    entropy_coef: float = setting(0.0, "weight of a bonus for the entropy of the policy")
    gamma: float = setting(1.0, "discount of a reward by each token before it")
    gae_lambda: float = setting(0.95, "advantages: 0 trusts the values, 1 trusts the rewards")
    whiten: bool = setting(True, "shift and scale the advantages of a rollout to mean 0 and deviation 1")
    kl_coef: float = setting(0.05, "penalty for each nat of divergence from the reference; 0: none")
    kl_estimator: Literal["k1", "k3"] = setting("k1", "estimate of the divergence; k3 is never negative")
    kl_target: float | None = setting(None, "nats of an answer that the penalty adapts to; unset: it stays")
    kl_limit: float = setting(100.0, "nats of an answer at which training stops; 0: never")

    def __post_init__(self) -> None:
        check_counts(self, "ppo", ["epochs"])
        for name in ("value_clip", "entropy_coef", "kl_coef", "kl_limit"):
            check_number("ppo", self, name, 0)
        for name in ("gamma", "gae_lambda"):
            check_number("ppo", self, name, 0, 1)
        for name in ("clip", "value_lr", *(["kl_target"] if self.kl_target is not None else [])):
            check_number("ppo", self, name, 1e-9)


@dataclass(frozen=True)
class GRPOConfig:
    group: int = setting(8, "answers to each prompt")
    epochs: int = setting(1, "how often an update sees each answer of a rollout")
    loss: Literal["grpo", "dapo", "bnpo", "dr_grpo"] = setting(
        "dapo", "tokens are averaged: grpo: in each answer, then over answers; dapo: all alike; dr_grpo: by a constant"
    )
    scale: Literal["group", "batch", "none"] = setting(
        "group", "advantages are divided by the standard deviation of rewards of the group, of the rollout, or not"
    )
    clip_low: float = setting(0.2, "an update makes a token less likely by this factor at most: 1 - clip_low")
    clip_high: float = setting(0.28, "an update makes a token more likely by this factor at most: 1 + clip_high")
    kl_coef: float = setting(0.0, "penalty for each nat of divergence from the reference; 0: none, as in DAPO")
    kl_unbiased: bool = setting(
        True, "weigh the penalty by the probability ratio: its gradient is that of the divergence"
    )
    kl_limit: float = setting(100.0, "with kl_coef: nats of an answer at which training stops; 0: never")
    mask_truncated: bool = setting(False, "learn nothing from answers that were cut off at rollout.max_tokens")

    def __post_init__(self) -> None:
        check_counts(self, "grpo", ["epochs"])
        if not 2 <= self.group <= 4096:
            raise UserError(f"grpo.group cannot be {self.group}", "a group has at least 2 answers to compare")
        check_number("grpo", self, "clip_low", 0, 1)
        for name in ("clip_high", "kl_coef", "kl_limit"):
            check_number("grpo", self, name, 0)


@dataclass(frozen=True)
class AlignSettings(Settings):
    align: AlignConfig


@dataclass(frozen=True)
class RewardSettings(AlignSettings):
    reward: RewardConfig


@dataclass(frozen=True)
class DPOSettings(AlignSettings):
    dpo: DPOConfig
    rollout: RolloutConfig  # of answers to held-out prompts, where there is a reward


@dataclass(frozen=True)
class OnlineSettings(AlignSettings):
    """Of methods that sample answers while they train."""

    rollout: RolloutConfig


@dataclass(frozen=True)
class PPOSettings(OnlineSettings):
    ppo: PPOConfig


@dataclass(frozen=True)
class GRPOSettings(OnlineSettings):
    grpo: GRPOConfig


@dataclass(frozen=True)
class ReinforceSettings(OnlineSettings):
    reinforce: ReinforceConfig


METHOD_SETTINGS: dict[str, type[AlignSettings]] = {
    "sft": AlignSettings,
    "reward": RewardSettings,
    "dpo": DPOSettings,
    "ppo": PPOSettings,
    "grpo": GRPOSettings,
    "reinforce": ReinforceSettings,
}
