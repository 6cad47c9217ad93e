"""Find the model with the lowest expected loss in a given time, among the candidate sizes of settings/scaling_rules.py.

    guess from FLOPs → probe that size → guess again → probe that size → the best size on the line between both

The text and its tokenizer are given: only size, learning rates, batch and length are searched.
"""

import bisect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from fledge.core import device as machines
from fledge.core.config import Layer
from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.core.formatting import counted, format_duration
from fledge.core.progress import notice
from fledge.model.config import ModelConfig
from fledge.model.flops import TRAINING_BYTES, non_embedding_parameters, parameter_count, training_flops
from fledge.planning.corpus_stats import CorpusStats
from fledge.planning.forecast import LossCurve, complete_for_forecast, effective_data, run_seconds, step_seconds
from fledge.planning.probe import Costs, measure_costs, tokens_per_second_guess
from fledge.settings import scaling_rules
from fledge.settings.layers import FOLLOWS_FROM_SIZE
from fledge.settings.pipeline import validated
from fledge.training.config import Settings

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
MAX_DAYS = 1000


def parse_minutes(text: str) -> float:
    """'3', '0.5', '90s', '1h30m' → seconds; a number without a unit is minutes."""
    text = text if text[-1:] in UNITS else f"{text}m"
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if not 0 < seconds < math.inf or "".join(number + unit for number, unit in parts) != text:
        raise UserError(
            f"--minutes cannot be {text!r}", "it takes a number of minutes, such as 3 or 0.5, or 90s, 1h30m"
        )
    if seconds > MAX_DAYS * UNITS["d"]:
        raise UserError(f"--minutes cannot be {text}", f"it takes a time up to {MAX_DAYS}d, such as 30 or 1h30m")
    return seconds


def sets_shape(overrides: Layer) -> bool:
    """Whether the overrides set the size or shape of the model, so that no size is searched."""
    return bool(set(FOLLOWS_FROM_SIZE["model"]) & set(overrides.get("model", {})))


@dataclass(frozen=True)
class BudgetSearch:
    """The search for the best size: the inputs that stay the same while sizes are tried."""

    preset: Layer
    overrides: Layer  # of the command line; they win over whatever is found
    base: Settings  # both of them, validated
    corpus: CorpusStats
    curve: LossCurve
    machine: Machine
    seconds: float
    folder: Path  # on the disk that checkpoints will go to

    def best(self) -> tuple[Settings, Costs]:
        """The completed settings that use the time best, and their costs."""
        sizes = self.candidates()
        first = self.lowest_loss(sizes, lambda model: 1 / tokens_per_second_guess(model, self.machine))
        costs = self.probe(first, 1 / tokens_per_second_guess(first, self.machine))
        second = self.lowest_loss(sizes, lambda model: costs.per_token * self.relative_flops(model, first))
        if second == first:
            return self.filled(first, costs), costs
        other = self.probe(second, costs.per_token * self.relative_flops(second, first))
        distance = training_flops(second) - training_flops(first)

        def interpolated(model: ModelConfig) -> Costs:
            return costs.interpolate(other, (training_flops(model) - training_flops(first)) / distance)

        # Only between the two measured sizes: extrapolating from two near sizes would be unreliable.
        low, high = sorted((sizes.index(first), sizes.index(second)))
        chosen = self.lowest_loss(sizes[low : high + 1], lambda model: interpolated(model).per_token)
        return self.filled(chosen, interpolated(chosen)), interpolated(chosen)

    @staticmethod
    def relative_flops(model: ModelConfig, base: ModelConfig) -> float:
        return training_flops(model) / training_flops(base)

    def lowest_loss(self, sizes: list[ModelConfig], seconds_per_token: Callable[[ModelConfig], float]) -> ModelConfig:
        """The model of the lowest expected loss if all of the time went into steps."""

        def loss(model: ModelConfig) -> float:
            seen = self.seconds / seconds_per_token(model) * self.corpus.bytes_per_token
            data = effective_data(seen, self.corpus.train_bytes or seen)
            return self.curve.loss(non_embedding_parameters(model), data)

        return min(sizes, key=loss)

    def candidates(self) -> list[ModelConfig]:
        """The candidate sizes that fit in memory, smallest first; or the one whose shape is given."""
        if sets_shape(self.overrides):
            return [replace(self.base.model, vocab_size=self.corpus.vocab_size)]
        memory = machines.total_memory(self.machine.device)
        candidates = scaling_rules.candidate_models(replace(self.base.model, n_kv_head=None), self.corpus.vocab_size)
        return [model for count, model in candidates if TRAINING_BYTES * count < memory]

    def probe(self, model: ModelConfig, seconds_per_token: float) -> Costs:
        tokens = self.seconds / seconds_per_token
        batch = self.batch_for(tokens, model)
        settings = self.settings(model, batch, max(1, int(tokens / (batch * model.context))))
        notice(f"trying {counted(parameter_count(settings.model), 'parameter')}")
        return measure_costs(settings, self.machine, self.folder)

    def batch_for(self, tokens: float, model: ModelConfig) -> int:
        given = "batch" in self.overrides.get("train", {})
        return self.base.train.batch if given else scaling_rules.batch_for(tokens, model)

    def settings(self, model: ModelConfig, batch: int, steps: int) -> Settings:
        """The settings that `fledge train` would use with this size, batch and length."""
        size = {"size": parameter_count(model), "vocab_size": model.vocab_size}
        sized = {} if sets_shape(self.overrides) else {"model": size}
        train = {
            "batch": batch,
            "micro_batch": scaling_rules.micro_batch_for(batch, model.context),
            **self.overrides.get("train", {}),
        }
        settings = validated(self.preset, sized, self.overrides, {"train": {**train, "steps": steps}})
        return complete_for_forecast(settings, self.corpus, self.machine)

    def filled(self, model: ModelConfig, costs: Costs) -> Settings:
        """The settings with as many steps as fit into the time."""
        batch = self.batch_for(self.seconds / costs.per_token, model)

        def total(steps: int) -> float:
            return run_seconds(self.settings(model, batch, steps), costs, self.corpus).total

        step = step_seconds(self.settings(model, batch, 1), costs)
        if total(1) > self.seconds:
            raise UserError(
                f"{precise_duration(self.seconds)} are not enough: one step takes {precise_duration(step)}"
                f" here, and everything around it {precise_duration(total(1) - step)}",
                f"give it at least --minutes {math.ceil(total(1))}s, or a smaller --train.batch",
            )
        steps = bisect.bisect_right(range(1, int(self.seconds / step) + 2), self.seconds, key=total)
        return self.settings(model, batch, steps)


def precise_duration(seconds: float) -> str:
    """0.0031 s · 4.2 s · 3 min 20 s"""
    return format_duration(seconds) if seconds >= 10 else f"{seconds:.2g} s"
