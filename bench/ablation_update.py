"""Patches of the optimizer, the weights, the objective and the batches for ablations.py: see ablation_model.py.

PolarExpress and Documents have no strength of 0.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ablation_model import NotApplicable, Patch, Training
from fledge.batches.loader import Batch
from fledge.batches.packing import Conversation, PackedReader
from fledge.model.packed import PackedCache
from fledge.optim.muon import orthogonalize
from fledge.training.objective import LossSum, NextTokenObjective
from fledge.training.parallel import LossModel
from fledge.training.step import StepResult

NARROWEST, MARGIN = 0.02, 1.01  # of PolarExpress


class NorMuon(Patch):
    """Muon whose updates are evened out over the output neurons by their second moments (Li et al., 2025)."""

    beta = 0.95

    def install(self, training: Training) -> None:
        moments: dict[torch.Size, Tensor] = {}  # one group of matrices for each shape

        def evened(matrices: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
            updates = torch.stack(orthogonalize(matrices, dtype))  # [N, rows, columns]
            squares = updates.square().mean(2, keepdim=True)
            moments[updates.shape] = torch.lerp(moments.get(updates.shape, squares), squares, 1 - self.beta)
            even = updates / moments[updates.shape].clamp(min=1e-12) ** (self.strength / 2)
            norms = [each.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12) for each in (updates, even)]
            return list((even * (norms[0] / norms[1])).unbind())

        training.step.optimizer.orthogonalize = evened


class PolarExpress(Patch):
    """Muon's Newton–Schulz with the best polynomial for each of its steps, not one for all (Amsel et al., 2025)."""

    def install(self, training: Training) -> None:
        polynomials = polar_express()

        def polar(matrices: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
            stacked = torch.stack(list(matrices))
            x = (stacked / stacked.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)).to(dtype)
            rows, columns = x.shape[1:]
            x = x.mT if rows > columns else x
            for a, b, c in polynomials:
                square = x @ x.mT
                x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
            x = (x.mT if rows > columns else x).to(stacked)
            return list((x * max(1.0, rows / columns) ** 0.5).unbind())

        training.step.optimizer.orthogonalize = polar


def polar_express(steps: int = 5, smallest: float = 1e-3) -> list[tuple[float, float, float]]:
    """a, b, c of a·x + b·x³ + c·x⁵ for each step, which bring singular values from `smallest` to 1 near to 1.

    Against the errors of bfloat16 as in the paper: no step is made for values below NARROWEST of the largest, which
    would send others near 0, and every step but the last expects values that are MARGIN too large.
    """
    found, low, high = [], smallest, 1.0
    for step in range(steps):
        a, b, c, error = nearest_to_one(max(low, NARROWEST * high), high)
        reached = a * low + b * low**3 + c * low**5  # below 1 - error, where the lowest were left out
        scale, margin = 2 / (reached + 1 + error), MARGIN if step < steps - 1 else 1.0
        found.append((scale * a / margin, scale * b / margin**3, scale * c / margin**5))
        low, high = scale * reached, scale * (1 + error)
    return found


def nearest_to_one(low: float, high: float) -> tuple[float, float, float, float]:
    """a, b, c of the a·x + b·x³ + c·x⁵ nearest to 1 from low to high, and its largest error (Remez' exchange)."""
    inner = low + (high - low) * np.array([0.25, 0.75])  # where the error is largest, besides at both ends
    for _ in range(30):
        x = np.array([low, *inner, high])
        a, b, c, error = np.linalg.solve(np.stack([x, x**3, x**5, [1, -1, 1, -1]], 1), np.ones(4))
        root = np.sqrt(9 * b * b - 20 * a * c)
        inner = np.sqrt(np.array([-3 * b - root, -3 * b + root]) / (10 * c))
    return float(a), float(b), float(c), float(error)


class MomentumRises(Patch):
    """Muon's momentum rises to 0.95: old gradients are outdated early, and average noise late (modded-nanogpt)."""

    to = 0.95

    def install(self, training: Training) -> None:
        step, multiplier, begin = training.step, training.step.multiplier, training.settings.optim.momentum

        def set_momentum(number: int) -> float:
            for group in step.optimizer.param_groups:
                if "momentum" in group:
                    group["momentum"] = begin + self.strength * training.progress * (self.to - begin)
            return multiplier(number)

        step.multiplier = set_momentum


class Average(Patch):
    """The mean of the weights after each update of the last fifth (SWA: Izmailov et al., 2018)."""

    share = 0.2

    def install(self, training: Training) -> None:
        self.model, self.steps = training.step.model, training.settings.train.steps
        self.mean: list[Tensor] = []
        training.step.around_update = self.average

    @contextmanager
    def average(self, result: StepResult) -> Iterator[None]:
        yield
        after = result.step - round(self.steps * (1 - self.share * self.strength))  # updates in the mean
        weights = [p.detach() for p in self.model.parameters()]
        if not self.mean or after <= 1:
            self.mean = [weight.clone() for weight in weights]
        else:
            torch._foreach_lerp_(self.mean, weights, self.rate(after))

    def rate(self, after: int) -> float:
        """How much the newest weights count."""
        return 1 / after

    def finish(self) -> None:
        with torch.no_grad():
            torch._foreach_copy_(list(self.model.parameters()), self.mean)


class ExponentialAverage(Average):
    """An exponential moving average of the weights over about a twentieth of the run (Polyak and Juditsky, 1992)."""

    share, horizon = 1.0, 0.05

    def rate(self, after: int) -> float:
        return max(1 / after, 1 / max(1.0, self.horizon * self.strength * self.steps))


@dataclass(frozen=True)
class TwoTokens(NextTokenObjective):
    """The loss that is reported in training is the sum of both."""

    training: Training = field(kw_only=True)
    weight: float = field(kw_only=True)

    def __call__(self, model: Any, batch: Batch) -> LossSum:
        hidden, weight = model.hidden(batch.inputs), self.weight * (1 - self.training.progress)
        loss = self.head_loss(hidden, model.head, batch.targets)
        second = self.head_loss(hidden[:, :-1], model.head, batch.targets[:, 1:])
        return LossSum(loss + weight * second, self.count(batch))


class MultiTokenPrediction(Patch):
    """The head also predicts the token after the next, with a weight that falls to 0 (Gloeckle et al., 2024)."""

    weight = 0.3

    def install(self, training: Training) -> None:
        head_loss = training.step.objective.head_loss
        set_objective(training, TwoTokens(head_loss, training=training, weight=self.strength * self.weight))


def set_objective(training: Training, objective: Any) -> None:
    training.step.objective = objective
    training.step.loss = LossModel(training.step.model, training.machine, objective)


class BatchGrows(Patch):
    """Half of the batch in the first half of the updates (Smith et al., don't decay the learning rate, 2018)."""

    share = 0.5

    def install(self, training: Training) -> None:
        train = training.settings.train
        small, updates = train.batch // 2, round(self.share * self.strength * train.steps)

        def batches(number: int) -> list[Batch]:
            if number < updates:
                return [training.read(number * small, small)]
            return [training.read(updates * small + (number - updates) * train.batch, train.batch)]

        training.step.batches = batches


class ContextGrows(Patch):
    """Windows are cut into halves in the first half of the updates (length warmup: Li et al., 2022)."""

    share = 0.5

    def install(self, training: Training) -> None:
        train, half = training.settings.train, training.settings.model.context // 2
        updates = round(self.share * self.strength * train.steps)

        def batches(number: int) -> list[Batch]:
            batch = training.read(number * train.batch, train.batch)
            return [batch.map(lambda ids: ids.reshape(-1, half)) if number < updates else batch]

        training.step.batches = batches


class PackedObjective(NextTokenObjective):
    def __call__(self, model: Any, batch: Batch) -> LossSum:
        cache = PackedCache(model.config, batch.extra["positions"])
        return LossSum(model.forward_loss(batch.inputs, batch.targets, self.head_loss, cache), self.count(batch))


class Documents(Patch):
    """Windows begin with documents, and none attends to another (Krell et al., packing without contamination, 2021).

    Their order is another than the recipe's, whose fit to n-grams counts only what its own windows leave: this part
    trains on some of what was counted. Without that: --set train.ngram_steps=0.
    """

    def install(self, training: Training) -> None:
        context, train = training.settings.model.context, training.settings.train
        ids, starts = training.split.read(0, len(training.split)), training.split.document_starts().tolist()
        if len(starts) < 2:
            raise NotApplicable("the text is a single document")
        pieces = [
            ids[at : min(at + context + 1, end)]
            for begin, end in zip(starts, [*starts[1:], len(ids)], strict=True)
            for at in range(begin, end - 1, context)
        ]
        reader = PackedReader([Conversation(ids, np.ones(len(ids), bool)) for ids in pieces], context, train.seed)
        training.step.batches = lambda number: [reader(number * train.batch, train.batch)]
        set_objective(training, PackedObjective(training.step.objective.head_loss))
