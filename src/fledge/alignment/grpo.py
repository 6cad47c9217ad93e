"""GRPO (Group Relative Policy Optimization): several answers to each prompt; those better than their group gain.

For a prompt x the policy π_old draws G answers y_1 … y_G with rewards R_1 … R_G. There is no value model: the baseline
of an answer is the mean of its group, and all tokens of the answer share its advantage

    A_i = (R_i - mean(R)) / s      s = std(R) + 1e-4      scale = group    GRPO, arXiv 2402.03300
                                   s = std of all rewards of the rollout + 1e-4      batch    arXiv 2508.08221
                                   s = 1                                             none     Dr. GRPO, arXiv 2503.20783

With ρ_t = π(y_t | …) / π_old(y_t | …), the loss of a token is PPO's clipped one, with a KL term to the reference where
kl_coef β > 0 (the estimate k3, never negative, with d_t = log π_ref(y_t | …) - log π(y_t | …)):

    l_t = -min(ρ_t A, clip(ρ_t, 1 - clip_low, 1 + clip_high) A) + β ρ_t (exp(d_t) - d_t - 1)

The factor ρ_t (kl_unbiased, arXiv 2512.02556) makes the gradient of that term that of the divergence; the first paper
has none. GRPO and PPO clip both sides alike; DAPO (arXiv 2503.14476) clips higher above (0.28), so that rare tokens can
become likely. The variants differ in how tokens are added up. Over the N answers of an update, of |y_i| tokens each:

    grpo       Σ_i (1 / |y_i|) Σ_t l_it / N           every answer counts the same: a token of a long one counts less
    dapo       Σ_i Σ_t l_it / (N · mean length)       every token counts the same; the mean length is the rollout's
    bnpo       Σ_i Σ_t l_it / tokens of the update    the same, with the length of this update
    dr_grpo    Σ_i Σ_t l_it / (N · max_tokens)        a constant: the length of an answer changes no weight

A group whose answers all have the same reward says nothing: it is dropped, at no cost, and the other groups weigh so
much more. With mask_truncated (DAPO's overlong filtering) so are answers that were cut off.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fledge.alignment.config import GRPOConfig, GRPOSettings
from fledge.alignment.on_policy import Each, policy_logprobs
from fledge.alignment.online import OnlineMethod, check_kl
from fledge.alignment.setup import AlignSetup
from fledge.batches.loader import Batch
from fledge.losses.cross_entropy import IGNORE, count_valid
from fledge.model.gpt import GPT
from fledge.training.objective import LossSum, Objective
from fledge.training.step import StepResult

EPS = 1e-4  # added to a standard deviation
SAME = 1e-8  # a standard deviation of rewards that are all the same, but for rounding
Scale = Literal["group", "batch", "none"]


def group_advantages(rewards: Tensor, scale: Scale) -> Tensor:
    """rewards [P, G]: G answers to each of P prompts → advantages [P, G]"""
    centred = rewards - rewards.mean(1, keepdim=True)
    if scale == "none":
        return centred
    return centred / ((rewards.std(1, keepdim=True) if scale == "group" else rewards.std()) + EPS)


def row_weights(rewards: Tensor, truncated: Tensor, *, mask_truncated: bool) -> tuple[Tensor, Tensor]:
    """Rewards and truncated [P, G] → the weight of each answer [P, G], and which groups are informative [P].

    0 for dropped answers; the others share the weight of all.
    """
    informative = rewards.double().std(1, correction=0) > SAME  # in float32, that of equal rewards is not 0
    kept = informative[:, None] & ~((truncated > 0) & mask_truncated)
    return kept * (kept.numel() / kept.sum().clamp(min=1)), informative


def clipped_loss(ratio: Tensor, advantages: Tensor, config: GRPOConfig) -> tuple[Tensor, Tensor]:
    """ρ [B, T], advantages [B, 1] → the loss of each token, and whether it is clipped."""
    low, high = 1 - config.clip_low, 1 + config.clip_high
    clipped = ((ratio < low) & (advantages < 0)) | ((ratio > high) & (advantages > 0))
    return -torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages), clipped


def kl_divergence(logprobs: Tensor, reference: Tensor) -> Tensor:
    """The estimate k3 of KL(π ‖ π_ref), for each token."""
    difference = reference - logprobs
    return difference.exp() - difference - 1


@dataclass(frozen=True)
class GRPOObjective:
    """Reads old_logprobs [B, T]; advantages, weight, mean_length [B]; with kl_coef also ref_logprobs [B, T]."""

    config: GRPOConfig
    max_tokens: int  # of an answer
    temperature: float = 1.0

    def count(self, batch: Batch) -> Tensor:
        rows = torch.full((), float(len(batch.inputs)), device=batch.inputs.device)
        match self.config.loss:
            case "grpo":
                return rows
            case "dapo":
                return batch.extra["mean_length"].sum()
            case "bnpo":
                return count_valid(batch.targets)
            case "dr_grpo":
                return rows * self.max_tokens

    def __call__(self, model: GPT, batch: Batch) -> LossSum:
        count, config = self.count(batch), self.config
        kept = batch.extra["weight"] > 0
        kept[0] |= not kept.any()  # every rank runs a forward pass; this row weighs nothing
        batch = batch.map(lambda tensor: tensor[kept])
        extra, valid = batch.extra, batch.targets != IGNORE
        logprobs = model.forward_loss(batch.inputs, batch.targets, policy_logprobs(self.temperature))
        ratio = (logprobs - extra["old_logprobs"]).exp()
        loss, clipped = clipped_loss(ratio, extra["advantages"][:, None], config)
        if config.kl_coef:
            divergence = kl_divergence(logprobs, extra["ref_logprobs"])
            loss = loss + config.kl_coef * divergence * (ratio if config.kl_unbiased else 1)
        rows = (loss * valid).sum(1) * extra["weight"]
        if config.loss == "grpo":
            rows = rows / valid.sum(1)
        return LossSum(rows.sum(), count, {"grpo/clip_fraction": (clipped[valid].sum(), valid.sum())})


class GRPO(OnlineMethod[GRPOSettings]):
    name = "grpo"
    temperature = 0.0  # of held-out answers

    def __init__(self, setup: AlignSetup[GRPOSettings]) -> None:
        super().__init__(setup, setup.settings.rollout)
        self.config = setup.settings.grpo
        self.samples, self.epochs = self.config.group, self.config.epochs
        self.reference = setup.reference() if self.config.kl_coef else None

    def objective(self, *, compile: bool) -> Objective:  # noqa: ARG002
        return GRPOObjective(self.config, self.rollout.max_tokens, self.rollout.temperature)

    def prepare(self, batch: Batch, each: Each, /) -> tuple[Mapping[str, Tensor], Mapping[str, float]]:
        config, old = self.config, batch.extra
        rewards, truncated = (old[name].view(-1, config.group) for name in ("rewards", "truncated"))
        weight, informative = row_weights(rewards, truncated, mask_truncated=config.mask_truncated)
        advantages, weight = group_advantages(rewards, config.scale).flatten(), weight.flatten()
        lengths, kept = (batch.targets != IGNORE).sum(1).float(), weight > 0
        mean_length = (lengths * kept).sum() / kept.sum() if kept.any() else lengths.mean()
        extra = {"advantages": advantages, "weight": weight, "mean_length": mean_length.expand(len(lengths))}
        metrics = {
            "grpo/zero_variance_groups": 1 - float(informative.float().mean()),
            "grpo/advantage": float(advantages.abs().mean()),  # its size
        }
        if self.reference is not None:
            extra["ref_logprobs"] = self.logprobs_of(self.reference, each)
            metrics["grpo/kl"] = float((old["old_logprobs"] - extra["ref_logprobs"]).sum(1).mean())  # nats of an answer
        return extra, metrics

    def check(self, result: StepResult, /) -> Iterator[str]:
        yield from super().check(result)
        kl, hint = self.metrics(result.step).get("grpo/kl", 0.0), "use a larger --grpo.kl_coef or a lower --optim.lr"
        check_kl("grpo", kl, self.config.kl_limit, result.step, hint)
