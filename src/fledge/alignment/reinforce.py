"""REINFORCE: make the answers that were rewarded more likely. The simplest method; PPO and GRPO refine it.

For an answer y to a prompt x, drawn from the policy π, with the reward R(x, y), the gradient of the expected reward is

    ∇ E[R] = E[ (R - b) · Σ_t ∇ log π(y_t | x, y_<t) ]

for any b that does not depend on y: a baseline makes the estimate less noisy and leaves its mean. Here b is the mean
reward of the rollout. So that the policy stays near the model that it began as, its divergence is taken off the reward:

    R = reward - β · Σ_t [ log π(y_t | …) - log π_ref(y_t | …) ]

The loss is divided by the number of tokens of all answers, as in PPO. Williams 1992.
"""

from collections.abc import Mapping

from torch import Tensor

from fledge.alignment.config import ReinforceSettings
from fledge.alignment.on_policy import Each, policy_logprobs
from fledge.alignment.online import OnlineMethod
from fledge.alignment.setup import AlignSetup
from fledge.batches.loader import Batch
from fledge.losses.cross_entropy import count_valid
from fledge.model.gpt import GPT
from fledge.training.objective import LossSum, Objective


class ReinforceObjective:
    """Reads `Batch.extra["advantages"]` [B]."""

    def __init__(self, temperature: float = 1.0) -> None:
        self.logprobs = policy_logprobs(temperature)

    def count(self, batch: Batch) -> Tensor:
        return count_valid(batch.targets)

    def __call__(self, model: GPT, batch: Batch) -> LossSum:
        logprobs = model.forward_loss(batch.inputs, batch.targets, self.logprobs)  # [B, T], 0 outside the answers
        return LossSum(-(batch.extra["advantages"] * logprobs.sum(-1)).sum(), self.count(batch))


class Reinforce(OnlineMethod[ReinforceSettings]):
    name = "reinforce"

    def __init__(self, setup: AlignSetup[ReinforceSettings]) -> None:
        super().__init__(setup, setup.settings.rollout)
        self.config = setup.settings.reinforce
        self.reference = setup.reference()

    def objective(self, *, compile: bool) -> Objective:  # noqa: ARG002
        return ReinforceObjective(self.rollout.temperature)

    def prepare(self, batch: Batch, each: Each, /) -> tuple[Mapping[str, Tensor], Mapping[str, float]]:
        divergence = (batch.extra["old_logprobs"] - self.logprobs_of(self.reference, each)).sum(-1)
        returns = batch.extra["rewards"] - self.config.kl_coef * divergence
        advantages = returns - returns.mean() if self.config.baseline else returns
        return {"advantages": advantages}, {
            "reinforce/kl": float(divergence.mean()),
            "reinforce/advantage_std": float(advantages.std(correction=0)),
        }
