"""PPO (proximal policy optimization): several small updates from each rollout, with a critic and a KL penalty.

    π  policy     π_old  the policy that answered     π_ref  the reference     V  critic: the reward still to come

1. Reward of each token t of an answer (prepare). R, the reward of the whole answer, comes with its last token:

    r_t = [t is last] · R - β · kl_t        k1: kl_t = log π_old(y_t) - log π_ref(y_t)
                                            k3: kl_t = exp(-k1) - 1 + k1, never negative

2. Advantages (generalized advantage estimation), backwards from the last token; V is 0 after it:

    δ_t = r_t + γ V_{t+1} - V_t             A_t = δ_t + γ λ A_{t+1}             return G_t = A_t + V_t

   They are then shifted and scaled to mean 0 and standard deviation 1 over all tokens of the rollout (whiten).

3. Loss of a token, with the ratio ρ = π(y_t) / π_old(y_t), a mean over all tokens of the answers (PPOObjective):

    loss = max( -A ρ, -A clip(ρ, 1 - ε, 1 + ε) ) - c · entropy

   The critic learns the returns G_t at the beginning of the iteration, from the same batches: see critic.py.

4. β adapts where `kl_target` is set: β ← β (1 + 0.1 · clip(KL / target - 1, -0.2, 0.2)), KL of an answer in nats.

Prompts and padding have no target, so they take part in nothing: a value or an advantage exists where a target does.
Papers: PPO arXiv 1707.06347, GAE 1506.02438, language models 1909.08593 (Ziegler et al.), kl estimators: Schulman 2020.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fledge.alignment.config import PPOConfig, PPOSettings
from fledge.alignment.critic import Critic
from fledge.alignment.on_policy import Each
from fledge.alignment.online import OnlineMethod, check_kl
from fledge.alignment.setup import AlignSetup
from fledge.batches.loader import Batch
from fledge.checkpoint.state import Stateful
from fledge.losses.cross_entropy import IGNORE, count_valid
from fledge.losses.logprobs import logprobs_and_entropies, token_logprobs
from fledge.model.gpt import GPT
from fledge.training.objective import LossSum, Objective
from fledge.training.step import StepResult

KL_GAIN, MAX_ERROR = 0.1, 0.2  # of the controller of β: Ziegler et al.


def token_kl(logprobs: Tensor, reference: Tensor, estimator: str) -> Tensor:
    """Estimates of KL(π_old ‖ π_ref) from the tokens that were drawn; 0 where there is no target."""
    k1 = logprobs - reference
    return k1 if estimator == "k1" else torch.expm1(-k1) + k1


def token_rewards(rewards: Tensor, penalties: Tensor, valid: Tensor) -> Tensor:
    """rewards [B], β · kl_t [B, T], valid [B, T] → r_t [B, T]"""
    places = torch.arange(valid.shape[1], device=valid.device)
    last = (places * valid).amax(1, keepdim=True)
    return ((places == last) * rewards[:, None] - penalties) * valid


def gae(rewards: Tensor, values: Tensor, valid: Tensor, gamma: float, lam: float) -> Tensor:
    """r_t, V_t, valid, each [B, T] → advantages [B, T], 0 where not valid. An answer is one run of valid tokens."""
    advantages, following = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    values = values * valid  # V is 0 after the last token
    for t in reversed(range(rewards.shape[1])):
        after = values[:, t + 1] if t + 1 < rewards.shape[1] else torch.zeros_like(following)
        delta = rewards[:, t] + gamma * after - values[:, t]
        following = (delta + gamma * lam * following) * valid[:, t]
        advantages[:, t] = following
    return advantages


def whiten(values: Tensor, valid: Tensor) -> Tensor:
    chosen = values[valid]
    return (values - chosen.mean()) / (chosen.std(correction=0) + 1e-8) * valid


class KLController:
    """The coefficient β; adapts where there is a target. State of a run."""

    def __init__(self, coefficient: float, target: float | None) -> None:
        self.coefficient, self._target = coefficient, target
        self._initial = coefficient

    def update(self, kl: float) -> None:
        if self._target:
            error = min(MAX_ERROR, max(-MAX_ERROR, kl / self._target - 1))
            self.coefficient *= 1 + KL_GAIN * error

    def state_dict(self) -> dict[str, Any]:
        return {"coefficient": self.coefficient}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.coefficient = state.get("coefficient", self._initial)


class PPOObjective:
    """Reads old_logprobs and advantages [B, T] of `Batch.extra`."""

    def __init__(self, config: PPOConfig, temperature: float = 1.0) -> None:
        self.config = config
        head_loss = logprobs_and_entropies if config.entropy_coef else token_logprobs
        self.head_loss = partial(head_loss, temperature=temperature)

    def count(self, batch: Batch) -> Tensor:
        return count_valid(batch.targets)

    def __call__(self, model: GPT, batch: Batch) -> LossSum:
        config, valid, count = self.config, batch.targets != IGNORE, self.count(batch)
        found = model.forward_loss(batch.inputs, batch.targets, self.head_loss)
        logprobs, entropies = found if config.entropy_coef else (found, torch.zeros_like(found))
        log_ratio, advantages = logprobs - batch.extra["old_logprobs"], batch.extra["advantages"]
        ratio = log_ratio.exp()
        policy = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - config.clip, 1 + config.clip))
        loss = policy - config.entropy_coef * entropies
        metrics = {
            "ppo/clip_fraction": ((ratio - 1).abs() > config.clip).float(),
            "ppo/update_kl": ratio - 1 - log_ratio,  # of the policy from the one that answered (k3)
            **({"ppo/entropy": entropies} if config.entropy_coef else {}),
        }
        sums = {name: ((each.detach() * valid).sum(), count) for name, each in metrics.items()}
        return LossSum((loss * valid).sum(), count, sums)


class PPO(OnlineMethod[PPOSettings]):
    name = "ppo"

    def __init__(self, setup: AlignSetup[PPOSettings]) -> None:
        super().__init__(setup, setup.settings.rollout)
        self.config = setup.settings.ppo
        self.epochs = self.config.epochs
        self.reference = setup.reference()
        self.kl = KLController(self.config.kl_coef, self.config.kl_target)
        self.critic = Critic(
            setup.reference,
            setup.settings.model,
            setup.machine,
            seed=setup.settings.train.seed,
            lr=self.config.value_lr,
            clip=self.config.value_clip,
            grad_clip=setup.settings.train.grad_clip,
        )

    def objective(self, *, compile: bool) -> Objective:  # noqa: ARG002
        return PPOObjective(self.config, self.rollout.temperature)

    def prepare(self, batch: Batch, each: Each, /) -> tuple[Mapping[str, Tensor], Mapping[str, float]]:
        config, valid, old = self.config, batch.targets != IGNORE, batch.extra
        reference = self.logprobs_of(self.reference, each)
        values = each(self.critic.values)
        penalties = self.kl.coefficient * token_kl(old["old_logprobs"], reference, config.kl_estimator)
        rewards = token_rewards(old["rewards"], penalties, valid)
        advantages = gae(rewards, values, valid, config.gamma, config.gae_lambda)
        returns = advantages + values
        kl = float((old["old_logprobs"] - reference).sum(1).mean())
        metrics = {
            "ppo/kl": kl,  # nats of an answer
            "ppo/kl_coef": self.kl.coefficient,
            "ppo/advantage": float(advantages[valid].mean()),
            "ppo/advantage_std": float(advantages[valid].std(correction=0)),
            "ppo/explained_variance": 1 - float(advantages[valid].var() / returns[valid].var().clamp(min=1e-8)),
        }
        self.kl.update(kl)
        metrics["ppo/value_loss"] = self.critic.fit(self.updates(old_values=values, returns=returns))
        return {"advantages": whiten(advantages, valid) if config.whiten else advantages}, metrics

    def check(self, result: StepResult, /) -> Iterator[str]:
        yield from super().check(result)
        hint = f"use a larger --ppo.kl_coef (now {self.kl.coefficient:.3g}), a --ppo.kl_target, or a lower --optim.lr"
        check_kl("ppo", self.metrics(result.step).get("ppo/kl", 0.0), self.config.kl_limit, result.step, hint)

    def components(self) -> Mapping[str, Stateful]:
        return {**super().components(), "kl": self.kl, "critic": self.critic}
