"""What a reward model says: the rewards of answers, how well they are calibrated, and a finished run as a reward.

The reward of an answer is what the value head gives at its last token, the one that ends the turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fledge.alignment.preferences import Pair, encode_answer, pair_batch
from fledge.batches.loader import Batch
from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.losses.cross_entropy import IGNORE
from fledge.model.gpt import GPT
from fledge.runs.methods import method_of
from fledge.runs.run_folder import RunFolder
from fledge.tokenizers.base import Tokenizer, fingerprint
from fledge.tokenizers.chat_template import ChatTemplate
from fledge.training.method import Interruptible

ROWS = 8  # pairs, or answers, of a batch; fixed, so that the bits do not depend on the free memory
BINS = 5  # of the calibration: probabilities from 0.5 to 1


def pair_rewards(model: GPT, batch: Batch) -> Tensor:
    """The rewards of the chosen and the rejected answers [B, 2]"""
    inputs, targets = batch.inputs.flatten(0, 1), batch.targets.flatten(0, 1)
    # The last token of an answer is a target only: the model must read it, too.
    last = inputs.shape[1] - (targets != IGNORE).flip(-1).int().argmax(-1, keepdim=True)  # [2B, 1]
    ids = F.pad(inputs, (0, 1)).scatter(1, last, targets.gather(1, last - 1))
    return model.values(ids).gather(1, last).view(-1, 2)


def prefers_chosen(rewards: Tensor) -> Tensor:
    """1 where the chosen answer has the larger reward, 1/2 where both have the same. [B]"""
    return ((rewards[:, 0] - rewards[:, 1]).sign() + 1) / 2


@torch.no_grad()
def score_pairs(model: GPT, pairs: Sequence[Pair], context: int, machine: Machine, loop: Interruptible) -> Tensor:
    """The rewards of pairs [N, 2]. Each rank computes a share; FSDP needs the same number of batches on all of them."""
    found, world, was_training = torch.zeros(len(pairs), 2), machine.world, model.training
    starts = range(0, len(pairs), ROWS)
    model.eval()
    try:
        for turn in loop(range(0, len(starts), world.size)):
            own = turn + world.rank
            rows = slice(start := starts[min(own, len(starts) - 1)], start + ROWS)
            with machine.autocast():
                rewards = pair_rewards(model, pair_batch(pairs[rows], context).to(machine.device)).cpu()
            if own < len(starts):
                found[rows] = rewards
    finally:
        model.train(was_training)
    return world.all_reduce_sum(found)


@dataclass(frozen=True)
class CalibrationBin:
    """The pairs whose preferred answer has a probability in one range."""

    pairs: int
    confidence: float  # the mean probability of the preferred answer
    accuracy: float  # how often the chosen answer is the preferred one


def calibration(rewards: Tensor) -> list[CalibrationBin]:
    """Rewards [N, 2] → the bins that are not empty, from 0.5 to 1."""
    confidence, correct = (rewards[:, 0] - rewards[:, 1]).abs().double().sigmoid(), prefers_chosen(rewards).double()
    which = ((confidence - 0.5) * 2 * BINS).long().clamp(max=BINS - 1)
    bins = (which == n for n in range(BINS))
    return [
        CalibrationBin(int(own.sum()), float(confidence[own].mean()), float(correct[own].mean()))
        for own in bins
        if own.any()
    ]


def calibration_error(bins: Sequence[CalibrationBin]) -> float:
    """The expected calibration error: the mean distance of probability and accuracy, weighted by pairs."""
    return sum(each.pairs * abs(each.confidence - each.accuracy) for each in bins) / sum(each.pairs for each in bins)


class ScoreModel:
    """The model of a run of `fledge align reward`, as a reward: (prompt, answer) → its score. Deterministic."""

    def __init__(self, model: GPT, template: ChatTemplate, machine: Machine) -> None:
        self.model, self.template, self.machine = model.to(machine.device).eval(), template, machine

    @classmethod
    def open(cls, run: RunFolder, machine: Machine, tokenizer: Tokenizer) -> "ScoreModel":
        """tokenizer: of the policy whose answers are scored."""
        if method_of(run) != "reward":
            raise UserError(
                f"'{run.name}' is not a reward model", "train one from pairs of answers: fledge align reward"
            )
        loaded, template = run.load(machine.device, value_head=True), run.chat_template()
        if fingerprint(loaded.tokenizer) != fingerprint(tokenizer):
            raise UserError(
                f"the reward model '{run.name}' has another tokenizer than the model that it shall score",
                "train it from the same run as the policy: fledge align reward --init RUN",
            )
        assert template is not None, "every alignment run has a chat template"
        return cls(loaded.model, template, machine)

    def __call__(self, prompt: str, answer: str, target: str | None = None) -> float:  # noqa: ARG002
        return self.scores([(prompt, answer)])[0]

    @torch.no_grad()
    def scores(self, answers: Sequence[tuple[str, str]]) -> list[float]:
        """(prompt, answer) → score, of each. Of a text longer than the context, the end counts."""
        found = list[float]()
        for start in range(0, len(answers), ROWS):
            rows = [self._ids(prompt, answer) for prompt, answer in answers[start : start + ROWS]]
            ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
            for row, own in enumerate(rows):
                ids[row, : len(own)] = torch.tensor(own)
            last = torch.tensor([[len(own) - 1] for own in rows], device=self.machine.device)
            with self.machine.autocast():
                found += self.model.values(ids.to(self.machine.device)).gather(1, last).flatten().tolist()
        return found

    def _ids(self, prompt: str, answer: str) -> list[int]:
        before, after = encode_answer(self.template, [{"role": "user", "content": prompt}], answer)
        return (before + after)[-self.model.config.context :]
