"""DPO (Direct Preference Optimization): learn from pairs of answers, without a reward model and without sampling.

For a prompt x, a chosen answer y_w and a rejected one y_l, with the policy π and the frozen reference π_ref, the
log-ratio of an answer is the sum over its tokens

    r(y) = log π(y | x) - log π_ref(y | x)              β r(y) is the reward that the policy gives the answer implicitly

and with Δ = r(y_w) - r(y_l), and Δ' = r(y_w) / |y_w| - r(y_l) / |y_l| (per token), the loss of a pair is

    sigmoid        - (1 - ε) log σ(β Δ) - ε log σ(-β Δ)                   ε = label smoothing: a share ε of the pairs
    sigmoid_norm   the same with Δ'                                       is labelled the wrong way round
    robust         [- (1 - ε) log σ(β Δ) + ε log σ(-β Δ)] / (1 - 2 ε)     unbiased where exactly that share is wrong
    ipo            (Δ' - 1 / (2 β))²

Papers: DPO and its label smoothing: arXiv 2305.18290; robust: 2403.00409; IPO: 2310.12036.

pairs → encode (preferences.py) → log π_ref of each answer, once → batches with it in `extra` → DPOObjective
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fledge.alignment.common import HeldOut
from fledge.alignment.config import DPOConfig, DPOSettings
from fledge.alignment.online import RewardEvaluations, WithRewards, rewarded_answer
from fledge.alignment.preferences import Pair, PairReader, drawn_examples, encode_pairs, pair_batch
from fledge.alignment.reference import ROWS, check_reference, pair_logprobs, reference_logprobs
from fledge.alignment.setup import AlignSetup
from fledge.batches.loader import Batch
from fledge.checkpoint.state import Stateful
from fledge.core.errors import UserError
from fledge.core.formatting import counted
from fledge.losses.cross_entropy import IGNORE
from fledge.model.gpt import GPT
from fledge.model.lora import freeze_base
from fledge.tracking.events import Sample
from fledge.training.method import Evaluations, Interruptible
from fledge.training.objective import LossSum, Objective
from fledge.training.setup import loaded_batches
from fledge.training.step import MicroBatches, StepResult

REFERENCE = "reference"  # in Batch.extra: log π_ref of the chosen and the rejected answer [B, 2]
UNMOVED_STEPS, UNMOVED = 30, 0.01  # steps in a row whose loss is that of the reference, within this share


def sigmoid_loss(delta: Tensor, config: DPOConfig) -> Tensor:
    right, wrong = F.logsigmoid(config.beta * delta), F.logsigmoid(-config.beta * delta)
    return -(1 - config.label_smoothing) * right - config.label_smoothing * wrong


def robust_loss(delta: Tensor, config: DPOConfig) -> Tensor:
    right, wrong = F.logsigmoid(config.beta * delta), F.logsigmoid(-config.beta * delta)
    share = config.label_smoothing
    return (-(1 - share) * right + share * wrong) / (1 - 2 * share)


def ipo_loss(delta: Tensor, config: DPOConfig) -> Tensor:
    return (delta - 1 / (2 * config.beta)).square()


# name → loss of Δ [B], and whether Δ is per token
LOSSES: dict[str, tuple[Callable[[Tensor, DPOConfig], Tensor], bool]] = {
    "sigmoid": (sigmoid_loss, False),
    "sigmoid_norm": (sigmoid_loss, True),
    "robust": (robust_loss, False),
    "ipo": (ipo_loss, True),
}


@dataclass(frozen=True)
class DPOObjective:
    """Per pair. Reads `Batch.extra["reference"]`."""

    config: DPOConfig

    def count(self, batch: Batch) -> Tensor:
        return torch.full((), len(batch.inputs), device=batch.inputs.device)

    def __call__(self, model: GPT, batch: Batch) -> LossSum:
        count = self.count(batch)
        logprobs = pair_logprobs(model, batch)
        ratios = logprobs - batch.extra[REFERENCE]  # r(y_w), r(y_l) [B, 2]
        loss, per_token = LOSSES[self.config.loss]
        scores = ratios / (batch.targets != IGNORE).sum(-1) if per_token else ratios
        rewards, delta = self.config.beta * ratios, scores[:, 0] - scores[:, 1]
        metrics = {
            "dpo/margin": rewards[:, 0] - rewards[:, 1],
            "dpo/accuracy": (ratios[:, 0] - ratios[:, 1]).sign() / 2 + 0.5,  # a tie is half
            "dpo/chosen_reward": rewards[:, 0],
            "dpo/rejected_reward": rewards[:, 1],
            "dpo/chosen_logprob": logprobs[:, 0],
            "dpo/rejected_logprob": logprobs[:, 1],
        }
        sums = {name: (each.sum(), count) for name, each in metrics.items()}
        return LossSum(loss(delta, self.config).sum(), count, sums)


class DPO:
    name = "dpo"

    def __init__(self, setup: AlignSetup[DPOSettings]) -> None:
        self.setup, self.config, context = setup, setup.settings.dpo, setup.settings.model.context
        self.tokenizer, self.fingerprint = setup.tokenizer, setup.fingerprint
        if setup.reward and setup.settings.train.parallel == "fsdp":
            raise UserError("answers cannot be rewarded during training with FSDP", "leave out --reward, or use DDP")
        self.pairs = encode_pairs(drawn_examples(setup.train, setup.settings.train), setup.template, context)
        self.held_out = encode_pairs(setup.val, setup.template, context) if setup.val else []
        self.unmoved = Unmoved(self.config, setup.settings.optim.lr)

    def transform(self, model: GPT) -> GPT:
        return freeze_base(model)

    def objective(self, *, compile: bool) -> Objective:  # noqa: ARG002
        return DPOObjective(self.config)

    def batches(self, model: GPT, objective: Objective) -> MicroBatches:
        settings = self.setup.settings
        extra = {REFERENCE: self._reference_logprobs(model, self.pairs)}
        reader = PairReader(self.pairs, model.config.context, settings.train.seed, extra)
        return loaded_batches(settings, self.setup.machine, reader, model, objective)

    def evaluations(self, model: GPT, interruptible: Interruptible) -> Evaluations:
        """Of held-out pairs; where there is a reward, of answers to their prompts too."""
        setup, pairs, objective, batches = self.setup, self.held_out, self.objective(compile=False), list[Batch]()
        if pairs:
            logprobs = self._reference_logprobs(model, pairs)
            for rows in (slice(n, n + ROWS) for n in range(0, len(pairs), ROWS)):
                batches.append(pair_batch(pairs[rows], model.config.context, {REFERENCE: logprobs[rows]}))
        about, train = counted(len(pairs), "pair"), setup.settings.train
        held_out = HeldOut(model, objective, batches, setup.machine, train, interruptible, about)
        if setup.reward is None or not setup.val:
            return held_out
        rewards = RewardEvaluations(
            setup, setup.settings.rollout, setup.reward, model, interruptible, reference=setup.reference()
        )
        return WithRewards(held_out, rewards)

    def _reference_logprobs(self, model: GPT, pairs: Sequence[Pair]) -> Tensor:
        reference = self.setup.reference()
        check_reference(reference.config, model.config)
        return reference_logprobs(reference, pairs, self.setup.machine)

    def sample(self, model: GPT, step: int, interruptible: Interruptible) -> Sample:
        return rewarded_answer(model, self.setup, step, interruptible)

    def metrics(self, step: int) -> Mapping[str, float]:
        return {"train/epoch": step * self.setup.settings.train.batch / len(self.pairs)}

    def check(self, result: StepResult, /) -> Iterator[str]:
        return self.unmoved.check(result)

    def components(self) -> Mapping[str, Stateful]:
        return {"dpo": self.unmoved}


class Unmoved:
    """Warns, once, where the loss stays at that of the reference: log 2 = 0.693. Survives a restart."""

    def __init__(self, config: DPOConfig, lr: float) -> None:
        self.lr, self.steps = lr, 0
        self.start = float(LOSSES[config.loss][0](torch.zeros(()), config))  # Δ = 0

    def check(self, result: StepResult) -> Iterator[str]:
        if result.lr < self.lr / 10:  # warm-up, or the end of the schedule
            return
        same = abs(result.loss - self.start) <= UNMOVED * self.start
        self.steps = self.steps + 1 if same else 0
        if self.steps == UNMOVED_STEPS:
            yield (
                f"the loss has stayed at {self.start:.3f} for {UNMOVED_STEPS} steps: the model likes both"
                f" answers as the reference does. Use a larger --optim.lr (now {self.lr:g}), and see that chosen and"
                " rejected answers differ in more than a few tokens"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state.get("steps", 0)
