"""So much time, and which model? The rung of the dial's ladder that reaches the lowest expected loss in it.

guess by operations → probe that rung → guess again → probe that one → the best rung on the line between both

The text and its tokenizer stay as they are: only size, rates, batch and length are searched.
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
from fledge.model.flops import TRAINING_BYTES, non_embedding_parameters, parameters, training_flops
from fledge.planning.corpus_stats import CorpusStats
from fledge.planning.forecast import complete_for_forecast, seconds_of_run, seconds_of_step
from fledge.planning.loss_curve import LossCurve, new_points
from fledge.planning.probe import ProbeResult, affordable, measure
from fledge.settings import scaling_rules
from fledge.settings.pipeline import validated
from fledge.training.config import Settings

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
LONGEST = 1000  # days


def read_time(text: str) -> float:
    """'90s', '30m', '1h30m' → seconds"""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if not 0 < seconds < math.inf or "".join(number + unit for number, unit in parts) != text:
        raise UserError(f"--budget cannot be {text!r}", "it takes a time, such as 90s, 30m or 1h30m")
    if seconds > LONGEST * UNITS["d"]:
        raise UserError(f"--budget cannot be {text}", f"it takes a time up to {LONGEST}d, such as 30m or 1h30m")
    return seconds


@dataclass(frozen=True)
class BudgetSearch:
    """Everything that stays the same while sizes are tried. `below` is the preset, `said` the command line."""

    below: Layer
    said: Layer
    base: Settings
    text: CorpusStats
    curve: LossCurve
    machine: Machine
    seconds: float
    folder: Path  # where checkpoints would go

    def best(self) -> tuple[Settings, ProbeResult]:
        """The settings that the time is spent best on, and what they cost."""
        rungs = self.rungs()
        guess = self.choose(rungs, lambda model: 1 / affordable(model, self.machine))
        one = self.probe(guess, 1 / affordable(guess, self.machine))
        again = self.choose(rungs, lambda model: one.token * training_flops(model) / training_flops(guess))
        if again == guess:
            return self.filled(guess, one), one
        other = self.probe(again, one.token * training_flops(again) / training_flops(guess))
        way = training_flops(again) - training_flops(guess)

        def between(model: ModelConfig) -> ProbeResult:
            return one.between(other, (training_flops(model) - training_flops(guess)) / way)

        # Beyond the two that were measured a line through them would be a guess, and a bold one where they are near.
        low, high = sorted((rungs.index(guess), rungs.index(again)))
        chosen = self.choose(rungs[low : high + 1], lambda model: between(model).token)
        return self.filled(chosen, between(chosen)), between(chosen)

    def choose(self, rungs: list[ModelConfig], seconds_per_token: Callable[[ModelConfig], float]) -> ModelConfig:
        """The one of the lowest expected loss, if all the time went into steps."""

        def loss(model: ModelConfig) -> float:
            seen = self.seconds / seconds_per_token(model) * self.text.bytes_per_token
            return self.curve.loss(non_embedding_parameters(model), new_points(seen, self.text.bytes or seen))

        return min(rungs, key=loss)

    def shaped(self) -> bool:
        """Whether the command line says which model it is to be."""
        return bool(set(scaling_rules.FOLLOWS["model"]) & set(self.said.get("model", {})))

    def rungs(self) -> list[ModelConfig]:
        """The sizes that this machine has room for; or the only one."""
        if self.shaped():
            return [replace(self.base.model, vocab_size=self.text.vocab_size)]
        room = machines.total_memory(self.machine.device)
        ladder = scaling_rules.ladder(replace(self.base.model, n_kv_head=None), self.text.vocab_size)
        return [model for count, model in ladder if TRAINING_BYTES * count < room]

    def probe(self, model: ModelConfig, token: float) -> ProbeResult:
        tokens = self.seconds / token
        batch = self.batch_for(tokens, model)
        settings = self.settings(model, batch, max(1, int(tokens / (batch * model.context))))
        notice(f"trying {counted(parameters(settings.model), 'parameter')}")
        return measure(settings, self.machine, self.folder)

    def batch_for(self, tokens: float, model: ModelConfig) -> int:
        said = "batch" in self.said.get("train", {})
        return self.base.train.batch if said else scaling_rules.batch_for(tokens, model)

    def settings(self, model: ModelConfig, batch: int, steps: int) -> Settings:
        """As `fledge train` would have them with this size, batch and length; what the command line says wins."""
        sized = {} if self.shaped() else {"model": {"size": parameters(model), "vocab_size": model.vocab_size}}
        train = {
            "batch": batch,
            "micro_batch": scaling_rules.micro_batch_for(batch, model.context),
            **self.said.get("train", {}),
        }
        return complete_for_forecast(
            validated(self.below, sized, self.said, {"train": {**train, "steps": steps}}), self.text, self.machine
        )

    def filled(self, model: ModelConfig, measured: ProbeResult) -> Settings:
        """As many steps as there is time for."""
        batch = self.batch_for(self.seconds / measured.token, model)

        def seconds(steps: int) -> float:
            return seconds_of_run(self.settings(model, batch, steps), measured, self.text).total

        step = seconds_of_step(self.settings(model, batch, 1), measured)
        if seconds(1) > self.seconds:
            raise UserError(
                f"a budget of {brief(self.seconds)} is too small: one step takes {brief(step)} here,"
                f" and everything around it {brief(seconds(1) - step)}",
                f"give it at least --budget {math.ceil(seconds(1))}s, or a smaller --train.batch",
            )
        steps = bisect.bisect_right(range(1, int(self.seconds / step) + 2), self.seconds, key=seconds)
        return self.settings(model, batch, steps)


def brief(seconds: float) -> str:
    return format_duration(seconds) if seconds >= 10 else f"{seconds:.2g} s"
