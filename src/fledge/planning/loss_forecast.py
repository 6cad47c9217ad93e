"""Forecast the final validation loss, with an interval, from runs that were really made: the table runs.csv.

A Gaussian process on the logarithm of bits per byte. What two runs have in common makes their losses similar:

    text_entropy, tokens, size of the vocabulary, parameters, passes     a trend, with wide priors
    the same text                                                        an offset of TEXT
    the same recipe: all of the model but its size, and the optimizer    an offset of RECIPE, and of its trend

So a recipe that is not in the table has an interval too wide to be shown, settings far from all runs in the table
have a wider one, and finished runs on the user's own text make it narrower. bench/forecast_table.py makes the table.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fledge.core.config import Layer
from fledge.core.errors import UserError
from fledge.model.flops import non_embedding_parameters
from fledge.planning.corpus_stats import CorpusStats
from fledge.planning.text_entropy import text_entropy
from fledge.runs.run_folder import RunFolder, list_runs
from fledge.settings.layers import FOLLOWS_FROM_SIZE, without
from fledge.settings.pipeline import resolve, validated
from fledge.tracking.sinks.csv import MetricsTable, read_metrics
from fledge.training.config import Settings
from fledge.training.setup import learned_tokens

TABLE = "runs.csv"
# Recipes of the table that are a preset with some settings changed; all others are presets.
VARIANTS: dict[str, tuple[str, Layer]] = {"text, portable": ("text", {"model": {"bigram_rows": None}})}
# Standard deviations of the logarithm of the loss.
NOISE = 0.01  # another seed
TEXT = 0.018  # what text_entropy does not know of a text
RECIPE = 0.3  # another architecture or optimizer
TREND = (0.3, 0.15, 0.15, 0.07, 0.02, 0.1, 0.02, 0.05)  # of the coefficients in trend()
RECIPE_TREND = 0.05
COVERAGE = 1.645  # standard deviations on both sides: 9 of 10 runs lie inside
# How far beyond the known runs of a recipe a loss is forecast, as factors. The first steps of different texts have
# little in common, and neither has what a model memorizes in many passes.
SHORTEST, LONGEST, LARGEST, MOST_PASSES = 0.7, 4.0, 6.0, 1.2
FEW_PASSES = 1.5  # that hardly memorize
MAX_OWN_RUNS = 10  # the text of each is read for up to a second
MAX_WIDTH = 0.2  # relative half-width of an interval above which nothing is forecast


@dataclass(frozen=True)
class RunPoint:
    """One run as the forecast sees it."""

    text: str
    recipe: str
    entropy: float  # text_entropy for the tokens of the run, bits per byte
    vocab_size: int
    parameters: int  # of the blocks
    tokens: float  # seen in the whole run
    train_tokens: float  # of the text
    bits_per_byte: float = math.nan  # on the whole validation split, at the end

    def trend(self) -> tuple[float, ...]:
        # A larger vocabulary takes longer to learn; a larger model gains more from more tokens.
        tokens = math.log(self.tokens / 6e5) - math.log(self.vocab_size / 3000) / 2
        parameters, entropy = math.log(self.parameters / 5e5), math.log(self.entropy / 2)
        memorized = max(0.0, self.passes - FEW_PASSES)
        repeated = (math.log1p(self.passes), memorized)
        return 1.0, entropy, tokens, parameters, *repeated, tokens**2, tokens * parameters

    @property
    def passes(self) -> float:
        """Over the text."""
        return self.tokens / self.train_tokens


@dataclass(frozen=True)
class Interval:
    """`low` to `high` holds 9 of 10 runs."""

    expected: float
    low: float
    high: float

    def __mul__(self, factor: float) -> "Interval":
        return Interval(self.expected * factor, self.low * factor, self.high * factor)

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def forecast_loss(run: RunPoint, known: Sequence[RunPoint]) -> Interval | None:
    """The final loss of `run` in bits per byte; None where no run like it is known."""
    if not is_covered(run, [other for other in known if other.recipe == run.recipe]):
        return None
    covariance = np.array([[similarity(a, b) for b in known] for a in known]) + NOISE**2 * np.eye(len(known))
    shared = np.array([similarity(run, other) for other in known])
    measured = np.array([math.log(other.bits_per_byte / other.entropy) for other in known])
    solved: NDArray[np.float64] = np.linalg.solve(covariance, np.stack((measured, shared), axis=1))
    expected = math.log(run.entropy) + float(shared @ solved[:, 0])
    variance = similarity(run, run) + NOISE**2 - float(shared @ solved[:, 1])
    half = COVERAGE * math.sqrt(max(NOISE**2, variance))
    if half > MAX_WIDTH:
        return None
    return Interval(math.exp(expected), math.exp(expected - half), math.exp(expected + half))


def is_covered(run: RunPoint, like: Sequence[RunPoint]) -> bool:
    """Whether some runs of the same recipe were about as short, as long, as small, as large, and as repetitive."""
    if not like:
        return False
    tokens, parameters = [other.tokens for other in like], [other.parameters for other in like]
    return (
        SHORTEST * min(tokens) <= run.tokens <= LONGEST * max(tokens)
        and min(parameters) / LARGEST <= run.parameters <= LARGEST * max(parameters)
        and run.passes <= max(FEW_PASSES, MOST_PASSES * max(other.passes for other in like))
    )


def similarity(a: RunPoint, b: RunPoint) -> float:
    """The covariance of the logarithms of two losses."""
    x, y = a.trend(), b.trend()
    same_recipe = a.recipe == b.recipe
    trend = sum((scale**2) * p * q for scale, p, q in zip(TREND, x, y, strict=True))
    return trend + TEXT**2 * (a.text == b.text) + same_recipe * (RECIPE**2 + RECIPE_TREND**2 * x[2] * y[2])


@cache
def read_table() -> tuple[RunPoint, ...]:
    """The runs of runs.csv."""
    return parse_table(resources.files("fledge.planning").joinpath(TABLE).read_text())


def parse_table(text: str) -> tuple[RunPoint, ...]:
    return tuple(
        RunPoint(
            text=row["text"],
            recipe=row["recipe"],
            entropy=float(row["entropy"]),
            vocab_size=int(row["vocab_size"]),
            parameters=int(row["parameters"]),
            tokens=float(row["tokens"]),
            train_tokens=float(row["train_tokens"]),
            bits_per_byte=float(row["bits_per_byte"]),
        )
        for row in csv.DictReader(text.splitlines())
    )


def run_point(settings: Settings, corpus: CorpusStats) -> RunPoint | None:
    """The run of these completed settings; None where too little is known of its text."""
    if corpus.dataset is None:
        return None
    tokens = learned_tokens(settings, corpus.train_tokens, settings.train.steps)
    if (entropy := text_entropy(corpus.dataset, tokens)) is None:
        return None
    return RunPoint(
        text=corpus.dataset.fingerprint,
        recipe=recipe_name(settings),
        entropy=entropy,
        vocab_size=corpus.vocab_size,
        parameters=non_embedding_parameters(settings.model),
        tokens=tokens,
        train_tokens=corpus.train_tokens,
    )


def recipe_name(settings: Settings) -> str:
    """The recipe in the table with the same architecture and optimizer; if there is none, their description."""
    return recipe_of(settings, table_recipes())


def recipe_of(settings: Settings, names: Sequence[str]) -> str:
    own = architecture(settings)
    return next((name for name in names if architecture(resolve(*VARIANTS.get(name, (name,)))) == own), repr(own))


@cache
def table_recipes() -> tuple[str, ...]:
    return tuple(sorted({point.recipe for point in read_table()}))


def architecture(settings: Settings) -> tuple[object, str]:
    """What two runs of the same recipe have in common: all of the model but its size, and the optimizer."""
    ignored = {"model": (*FOLLOWS_FROM_SIZE["model"], "vocab_size", "context", "attention")}
    return without({"model": vars(settings.trained_model)}, ignored), settings.optim.optimizer


def finished_runs(runs: Path, like: Settings, corpus: CorpusStats, exclude: str = "") -> dict[str, RunPoint]:
    """{name: point} of the user's newest finished runs on the same dataset with the same recipe."""
    points: dict[str, RunPoint] = {}
    if corpus.dataset is None:
        return points
    for run in reversed(list_runs(runs)):
        if len(points) == MAX_OWN_RUNS:
            break
        try:
            if run.name == exclude or run.metadata().get("dataset_sha256") != corpus.dataset.fingerprint:
                continue
            settings = settings_as_made(run)
            found = final_bits_per_byte(run, read_metrics(run.folder))
        except UserError:  # a damaged run, which 'fledge runs' reports
            continue
        if found is None or architecture(settings) != architecture(like):
            continue
        if point := run_point(settings, corpus):
            points[run.name] = replace(point, bits_per_byte=found)
    return points


def settings_as_made(run: RunFolder) -> Settings:
    """The settings of a finished run with the steps that it made: with train.minutes, not those that were planned."""
    settings = validated(run.config())
    return replace(settings, train=replace(settings.train, steps=run.last_step(), minutes=None, step_limit=None))


def final_bits_per_byte(run: RunFolder, metrics: MetricsTable) -> float | None:
    """On the whole validation split, after the last step; None where that was not measured."""
    if metrics.last_step != run.last_step():
        return None
    group = "val" if metrics["val/fraction"][-1] == 1 else "val_whole"
    value = metrics[f"{group}/bits_per_byte"][-1]
    return value if math.isfinite(value) else None
