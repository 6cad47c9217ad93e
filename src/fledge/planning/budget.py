"""Fill a given time: the recipe proposes a shape for the measured speed, and as many steps as fit are made.

guess from FLOPs → shape → probe it → the shape for that speed → probe it, if it is another → steps
"""

import bisect
import contextlib
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from fledge.core import device as machines
from fledge.core.config import Layer, merge
from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.core.formatting import counted, format_duration
from fledge.core.progress import notice
from fledge.model.config import ModelConfig
from fledge.model.flops import TRAINING_BYTES, non_embedding_parameters, parameter_count, training_flops
from fledge.planning.corpus_stats import CorpusStats
from fledge.planning.forecast import complete_for_forecast, run_seconds, step_seconds
from fledge.planning.probe import Costs, measure_costs, tokens_per_second_guess
from fledge.planning.recipe import (
    BETTER_WITHOUT_BIGRAMS,
    MANY_PASSES,
    Shape,
    learns_more,
    most_steps,
    recipe_layer,
    shapes_for,
    useful_tokens,
)
from fledge.settings.layers import FOLLOWS_FROM_SIZE, without
from fledge.settings.pipeline import validated
from fledge.training.config import Settings
from fledge.training.setup import can_compile

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
MAX_DAYS = 1000
START_SECONDS = 5.0  # of a training command, before its first step: imports, opening the text, building the model
LEAST_PROBE_SECONDS, LEAST_PROBE_SHARE = 3.0, 0.03  # the smaller of both: the run itself measures on
LEAST_TRAINING_SHARE = 0.1  # of the time, that a model is planned for, however long preparing took
FIRST_PROBE_SHARE = 0.4
TRAINING_SHARE = 0.8  # of the time of a run; the rest are the fit to n-grams, evaluations, samples, saves
MIN_STEPS = 20  # fewer teach hardly anything: a smaller model is chosen
SHORTENED = 0.9  # share of the steps below which it is said that fewer are made
# In shorter runs compiling is not even measured: it takes 20 to 45 s.
WORTH_COMPILING_SECONDS = 900.0
WORTH_COMPILING_SECONDS_IF_SLOW = 400.0  # where a step takes longer than twice its products
COMPILED_SPEEDUP = 1.3  # of such steps, at least: assumed, to choose the shape that is measured compiled


def parse_minutes(text: str) -> float:
    """'3', '.5', '90s', '1h30m' → seconds; a number without a unit is minutes."""
    whole = text if text[-1:] in UNITS else f"{text}m"
    parts = re.findall(r"(\d+\.?\d*|\.\d+)([smhd])", whole)
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != whole:
        seconds = math.nan
    check_seconds(seconds, repr(text))
    return seconds


def check_seconds(seconds: float, written: str) -> None:
    """Refuse a time that no training run can have. written: as the user gave it."""
    if not 0 < seconds < math.inf:
        hint = "it takes a number of minutes, such as 3 or 0.5; on the command line also 90s, 1h30m"
        raise UserError(f"--minutes cannot be {written}", hint)
    if seconds > MAX_DAYS * UNITS["d"]:
        raise UserError(f"--minutes cannot be {written}", f"it takes a time up to {MAX_DAYS}d, such as 30 or 1h30m")


def sets_shape(overrides: Layer) -> bool:
    """Whether the overrides set the size or shape of the model, so that no size is searched."""
    return bool(set(FOLLOWS_FROM_SIZE["model"]) & set(overrides.get("model", {})))


@dataclass(frozen=True)
class TimeSearch:
    """The search for the settings that use a time well: the inputs that stay the same while shapes are tried."""

    preset: Layer
    overrides: Layer  # of the command line; they win over whatever is found
    base: Settings  # both of them, validated
    corpus: CorpusStats
    machine: Machine
    seconds: float  # for the whole command
    begun: float | None  # when they began, if the run follows at once
    folder: Path  # on the disk that checkpoints will go to
    deadline: float  # of measuring, on the clock time.perf_counter
    processes: int = 1  # that share each batch

    def best(self) -> tuple[Settings, Layer, Costs]:
        """The completed settings that use the time, the fewest overrides that give them, and their costs."""
        if self.processes > 1:
            notice(f"one process is measured; {self.processes} may need less time than planned")
        shape = self.best_shape(self.guessed_step_seconds)
        costs = self.probe(shape, FIRST_PROBE_SHARE)
        second = self.best_shape(self.scaled_step_seconds(shape, costs))
        if second != shape:
            shape, costs = second, self.probe(second, 1.0)
        compiled = replace(self, overrides=merge({"train": {"compile": True}}, self.overrides))
        plain = not can_compile(self.settings(shape, 1), self.machine)
        if plain and self.is_worth_compiling(shape, costs) and can_compile(compiled.settings(shape, 1), self.machine):
            notice("measuring it compiled")
            expected = replace(costs, per_token=costs.per_token / COMPILED_SPEEDUP)
            larger = max(shape, self.best_shape(self.scaled_step_seconds(shape, expected)), key=self.shapes.index)
            compiled_costs = compiled.probe(larger, 1.0)
            candidates = self.filled(shape, costs), compiled.filled(larger, compiled_costs)
            found = max(candidates, key=lambda each: (non_embedding_parameters(each[0].model), each[0].train.steps))
        else:
            found = self.filled(shape, costs)
        if (used := self.used) > self.seconds / 2:
            rest = "the rest is for training" if used < self.seconds else "the run ends after its first steps"
            notice(f"preparing took {precise_duration(used)} of {precise_duration(self.seconds)}: {rest}")
        return found

    @property
    def used(self) -> float:
        """Seconds that pass before the run itself begins."""
        return START_SECONDS if self.begun is None else time.perf_counter() - self.begun

    @property
    def available(self) -> float:
        """Seconds for the run itself: those that are left."""
        return max(LEAST_TRAINING_SHARE * self.seconds, self.seconds - self.used)

    @cached_property
    def shapes(self) -> list[Shape]:
        """The shapes that fit in memory, smallest first, with a given batch or context; or the one that is given."""
        model, train = self.base.model, self.base.train
        if sets_shape(self.overrides):
            context = self.base.train_context
            return [Shape(model.n_layer, model.n_embd, context, rounded_up(train.batch, self.processes))]
        memory = machines.total_memory(self.machine.device)
        shapes = shapes_for(self.base, self.overrides)
        shapes = [replace(shape, batch=rounded_up(shape.batch, self.processes)) for shape in shapes]
        fitting = [shape for shape in shapes if TRAINING_BYTES * parameter_count(self.model(shape)) < memory]
        return fitting or [shapes[0]]

    def best_shape(self, seconds_of_step: Callable[[Shape], float]) -> Shape:
        """The shape that learns most in the time: larger ones are tried until one does not learn more."""
        best = self.shapes[0]
        for larger in self.shapes[1:]:
            tokens, others = (self.useful_tokens(shape, seconds_of_step(shape)) for shape in (larger, best))
            slowdown = seconds_of_step(larger) / larger.step_tokens * best.step_tokens / seconds_of_step(best)
            enough_steps = tokens >= 2 * MIN_STEPS * larger.step_tokens
            if not enough_steps or not learns_more(larger, tokens, others, slowdown):
                break
            best = larger
        return best

    def useful_tokens(self, shape: Shape, step_seconds: float) -> float:
        """Of a run of this shape that fills the time."""
        tokens = TRAINING_SHARE * self.available / step_seconds * shape.step_tokens
        return useful_tokens(tokens, self.validated(shape, 1), self.corpus.train_tokens)

    def guessed_step_seconds(self, shape: Shape) -> float:
        return shape.step_tokens / tokens_per_second_guess(self.model(shape), self.machine)

    def scaled_step_seconds(self, measured: Shape, costs: Costs) -> Callable[[Shape], float]:
        """The seconds of a step of any shape, from the costs of a measured one."""
        model = self.model(measured)
        return lambda shape: step_seconds(self.validated(shape, 1), self.scaled(costs, model, shape))

    def scaled(self, costs: Costs, measured: ModelConfig, shape: Shape) -> Costs:
        """The costs of a shape from those of a measured model: products grow with FLOPs, the rest with parameters."""
        model = self.model(shape)
        flops = training_flops(model) / training_flops(measured)
        size = parameter_count(model) / parameter_count(measured)
        return replace(
            costs,
            per_token=costs.per_token * flops,
            per_step=costs.per_step * size,
            per_eval_token=costs.per_eval_token * flops,
            per_sampled_token=costs.per_sampled_token * flops,
            per_checkpoint=costs.per_checkpoint * size,
        )

    def probe(self, shape: Shape, share: float) -> Costs:
        """Measure, in this share of the time that is left for it."""
        least = min(LEAST_PROBE_SECONDS, LEAST_PROBE_SHARE * self.seconds)
        left = max(least, share * (self.deadline - time.perf_counter()))
        notice(f"measuring a model of {counted(parameter_count(self.model(shape)), 'parameter')}")
        return measure_costs(self.settings(shape, 1000), self.machine, self.folder, left)

    def model(self, shape: Shape) -> ModelConfig:
        """With the vocabulary of the text."""
        return replace(self.validated(shape, 1).model, vocab_size=self.corpus.vocab_size)

    def validated(self, shape: Shape, steps: int) -> Settings:
        return validated(self.preset, self.layer(shape, steps), self.overrides)

    def layer(self, shape: Shape, steps: int) -> Layer:
        """What is chosen, on top of the preset and below the command line."""
        if sets_shape(self.overrides):
            chosen: Layer = {"train": {"batch": shape.batch, "steps": steps}}
        else:
            chosen = recipe_layer(shape, self.base, steps, self.passes(shape, steps))
        if self.base.optim.decay_steps:  # of the preset's own length
            chosen = merge(chosen, {"optim": {"decay_steps": None}})
        return merge(chosen, {"train": {"compile": False}})

    def settings(self, shape: Shape, steps: int) -> Settings:
        """The completed settings that `fledge train` would use."""
        return self.completed(self.layer(shape, steps))

    def completed(self, chosen: Layer) -> Settings:
        settings = validated(self.preset, chosen, self.overrides)
        return complete_for_forecast(settings, self.corpus, self.machine)

    def is_worth_compiling(self, shape: Shape, costs: Costs) -> bool:
        """Whether the time may be long enough for it. A guessed step has its products at half of their full speed."""
        measured = step_seconds(self.validated(shape, 1), costs)
        is_slow = self.machine.device == "cpu" and measured > self.guessed_step_seconds(shape)
        return self.seconds >= (WORTH_COMPILING_SECONDS_IF_SLOW if is_slow else WORTH_COMPILING_SECONDS)

    def filled(self, shape: Shape, costs: Costs) -> tuple[Settings, Layer, Costs]:
        """The settings with as many steps as fit into the time; of a smaller shape than the measured one, if by its
        costs that gets too few."""
        available, measured = self.available, self.model(shape)
        shape = min(shape, self.best_shape(self.scaled_step_seconds(shape, costs)), key=self.shapes.index)
        for smaller in reversed(self.shapes[: self.shapes.index(shape) + 1]):
            scaled = self.scaled(costs, measured, smaller)
            least = self.run_seconds(smaller, MIN_STEPS, scaled)
            if least <= available:
                break
        else:
            self.refuse_or_warn(least, available)
        steps = self.steps_within(available, smaller, scaled)
        return self.settings(smaller, steps), merge(self.needed(smaller, steps), self.overrides), scaled

    def steps_within(self, available: float, shape: Shape, costs: Costs) -> int:
        """As many as fit, and as the text is good for; at least MIN_STEPS."""
        step = step_seconds(self.settings(shape, 1), costs)
        bound = range(1, int(available / step) + 2)
        found = bisect.bisect_right(bound, available, key=lambda steps: self.run_seconds(shape, steps, costs))
        fitting = max(MIN_STEPS, found)
        is_long = self.passes(shape, fitting) > BETTER_WITHOUT_BIGRAMS  # else the limit of a run with the table holds
        settings = self.settings(shape, fitting if is_long else 1)
        limit = most_steps(settings, self.corpus.train_tokens, sets_shape(self.overrides))
        most = max(MIN_STEPS, int(min(fitting, limit)))
        if most < SHORTENED * fitting:
            seconds = format_duration(self.run_seconds(shape, most, costs))
            notice(
                f"the text is small: {counted(most, 'step')} ({seconds}) are planned; more passes over it would mostly"
                " memorize it (for more: --train.steps)"
            )
        passes, model = self.passes(shape, most), self.validated(shape, most).model
        if passes > MANY_PASSES and model.dropout:
            without_table = "" if model.bigram_rows else " and without a bigram table"
            notice(
                f"{passes:.0f} passes over the text: with dropout {model.dropout:g}{without_table},"
                " as it is memorized in part"
            )
        return most

    def passes(self, shape: Shape, steps: int) -> float:
        """Over the text; 0 where its length is not known."""
        text = self.corpus.train_tokens
        return steps * shape.step_tokens / text if text else 0.0

    def run_seconds(self, shape: Shape, steps: int, costs: Costs) -> float:
        return run_seconds(self.settings(shape, steps), costs, self.corpus).total

    def refuse_or_warn(self, least: float, available: float) -> None:
        """Where even MIN_STEPS of the smallest shape take longer; a shape that was given may take very long."""
        needed, asked = least + self.seconds - available, precise_duration(self.seconds)
        if sets_shape(self.overrides):
            raise UserError(
                f"{asked} are not enough: {MIN_STEPS} steps of this model take {precise_duration(needed)} here",
                f"give it more: --minutes {math.ceil(needed / 6) / 10:g}, or leave out the size of the model",
            )
        notice(f"{asked} are short: the smallest useful run takes about {precise_duration(needed)} here")

    def needed(self, shape: Shape, steps: int) -> Layer:
        """The chosen settings without those that change nothing."""
        layer, whole = self.layer(shape, steps), self.settings(shape, steps)
        for section, key in [(section, key) for section, values in layer.items() for key in values]:
            fewer = without(layer, {section: (key,)})
            with contextlib.suppress(UserError):  # settings that do not fit together
                layer = fewer if self.completed(fewer) == whole else layer
        return layer


def rounded_up(batch: int, processes: int) -> int:
    """The next batch that so many processes can share equally."""
    return -(-batch // processes) * processes


def precise_duration(seconds: float) -> str:
    """0.0031 s · 4.2 s · 3 min 20 s"""
    return format_duration(seconds) if seconds >= 10 else f"{seconds:.2g} s"
