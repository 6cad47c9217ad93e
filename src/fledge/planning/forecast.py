"""Forecast a run: its time, its peak memory and its final loss, from measured costs and how often each occurs.

    settings + corpus + costs  →  seconds for each activity, memory, expected loss

    loss = floor + size / parameters^0.216 + data / bytes^0.178        nats for each byte of text

`PRIOR` passes through two points: nanoGPT's CPU example as measured with fledge (0.8M parameters, 1.5 MB of
Shakespeare, 1.90 nats a byte), and 125M parameters trained on 20 tokens each (0.75, by the fit of Hoffmann et al.,
2022, whose floor it uses). There, size and data are balanced so that 20 tokens for a parameter use the compute best.
GPT-2's 0.65 lies within 0.02 of it. Texts differ by far more than that: the prior is rough, and finished runs on the
same text correct it.

The parameters in the law are those of the blocks. This module measures nothing: probe.py does.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.datasets.shards import Dataset
from fledge.model.flops import non_embedding_parameters, parameter_count, training_flops
from fledge.planning.corpus_stats import CorpusStats, dataset_stats
from fledge.planning.probe import Costs
from fledge.runs.run_folder import RunFolder, list_runs
from fledge.settings.complete import complete_settings, decide_settings
from fledge.settings.layers import FOLLOWS_FROM_SIZE, without
from fledge.settings.pipeline import validated
from fledge.tracking.sinks.csv import read_metrics
from fledge.training.config import Settings
from fledge.training.setup import can_compile

SIZE_POWER, DATA_POWER = 0.216, 0.178
PRIOR_WEIGHT = 0.5  # relative uncertainty of each constant of the prior
NOISE = 0.02  # relative uncertainty of a measured loss: another seed, another learning rate
REPETITION_DECAY = 15  # passes after which a text teaches little more: Muennighoff et al., 2023


@dataclass(frozen=True)
class TimeParts:
    """Seconds of a run by activity."""

    startup: float
    steps: float
    evaluations: float
    samples: float
    checkpoints: float

    @property
    def total(self) -> float:
        return self.startup + self.steps + self.evaluations + self.samples + self.checkpoints


@dataclass(frozen=True)
class Forecast:
    parameters: int
    steps: int
    batch: int
    tokens: int  # of the whole run
    flops: int
    device: str
    dtype: str
    compiled: bool
    tokens_per_second: float
    step_seconds: float
    seconds: float
    parts: TimeParts
    memory: int  # bytes at the peak
    loss: float  # nats for each token of the validation text, at the end
    fitted_runs: list[str]  # the finished runs that the loss curve was fitted to
    corpus_known: bool  # False: the size of the text and the vocabulary are estimates


def make_forecast(
    settings: Settings, machine: Machine, costs: Costs, corpus: CorpusStats, curve: "LossCurve", fitted_runs: list[str]
) -> Forecast:
    train, step = settings.train, step_seconds(settings, costs)
    step_tokens = train.batch * settings.model.context
    parts = run_seconds(settings, costs, corpus)
    return Forecast(
        parameters=parameter_count(settings.model),
        steps=train.steps,
        batch=train.batch,
        tokens=train.steps * step_tokens,
        flops=train.steps * step_tokens * training_flops(settings.model),
        device=machine.device,
        dtype=machine.dtype,
        compiled=can_compile(settings, machine),
        tokens_per_second=step_tokens / step,
        step_seconds=step,
        seconds=parts.total,
        parts=parts,
        memory=round(costs.peak_memory),
        loss=expected_loss(settings, corpus, curve),
        fitted_runs=fitted_runs,
        corpus_known=corpus.dataset is not None,
    )


def complete_for_forecast(settings: Settings, corpus: CorpusStats, machine: Machine) -> Settings:
    """Complete the settings as training would, with estimates where the corpus is not prepared yet."""
    if corpus.dataset is not None:
        return complete_settings(settings, corpus.dataset, machine)
    if settings.train.epochs is not None and not corpus.train_tokens:
        raise UserError(
            "train.epochs cannot be planned: the length of this text is not known before it is prepared",
            "set --train.steps instead, or prepare the text first: fledge prepare",
        )
    model = replace(settings.model, vocab_size=corpus.vocab_size)
    train_tokens = corpus.train_tokens or 2 * model.context + 1
    return decide_settings(replace(settings, model=model), train_tokens, corpus.val_tokens, machine)


# Time


def run_seconds(settings: Settings, costs: Costs, corpus: CorpusStats) -> TimeParts:
    """Seconds from the moment that the text is prepared and the model is built, as a run itself counts them."""
    train, steps = settings.train, settings.train.steps
    evaluated = scheduled_steps(train.eval_every or 0, steps) if corpus.val_tokens > 1 else set()
    samples = len(scheduled_steps(train.sample_every, steps)) + 1 if train.sample_every else 0
    saved = evaluated | scheduled_steps(train.save_every or steps, steps)  # an improved loss is saved, too
    return TimeParts(
        startup=costs.startup,
        steps=steps * step_seconds(settings, costs),
        evaluations=(len(evaluated) + bool(evaluated)) * corpus.val_tokens * costs.per_eval_token,  # and before step 1
        samples=samples * settings.track.sample_tokens * costs.per_sampled_token,
        checkpoints=len(saved) * costs.per_checkpoint,
    )


def scheduled_steps(every: int, steps: int) -> set[int]:
    """Every `every`-th step, and the last; none if `every` is 0."""
    return {*range(every, steps + 1, every), steps} if every else set()


def step_seconds(settings: Settings, costs: Costs) -> float:
    return costs.per_step + settings.train.batch * settings.model.context * costs.per_token


# Loss


@dataclass(frozen=True)
class LossPoint:
    """The final loss of one finished run, in nats for each byte."""

    parameters: int
    bytes: float
    loss: float


@dataclass(frozen=True)
class LossCurve:
    floor: float
    size: float
    data: float

    def loss(self, parameters: int, bytes: float) -> float:
        return float(np.dot(_features(parameters, bytes), (self.floor, self.size, self.data)))


PRIOR = LossCurve(floor=0.376, size=9.41, data=12.7)


def _features(parameters: int, bytes: float) -> tuple[float, float, float]:
    return 1.0, parameters**-SIZE_POWER, bytes**-DATA_POWER


def fit_curve(points: Sequence[LossPoint], prior: LossCurve = PRIOR) -> LossCurve:
    """Least squares of the three constants; the prior counts as one more equation for each of them."""
    constants = np.array([prior.floor, prior.size, prior.data])
    rows = [np.eye(3) / (PRIOR_WEIGHT * constants)]
    values = [np.full(3, 1 / PRIOR_WEIGHT)]
    for point in points:
        weight = 1 / (NOISE * point.loss)
        rows.append(np.array([_features(point.parameters, point.bytes)]) * weight)
        values.append(np.array([point.loss * weight]))
    solution = np.linalg.lstsq(np.concatenate(rows), np.concatenate(values), rcond=None)[0]
    return LossCurve(*(float(value) for value in np.maximum(solution, 0.0)))


def effective_data(seen: float, unique: float) -> float:
    """What reading `seen` bytes of a text of `unique` bytes is worth in new text: each repetition teaches less."""
    if seen <= unique:
        return seen
    repetitions = seen / unique - 1
    return unique * (1 + REPETITION_DECAY * (1 - math.exp(-repetitions / REPETITION_DECAY)))


def run_data(settings: Settings, corpus: CorpusStats) -> float:
    """Bytes of text that the run reads, repetitions discounted; a text of unknown length counts as new."""
    seen = settings.train.steps * settings.train.batch * settings.model.context * corpus.bytes_per_token
    return effective_data(seen, corpus.train_bytes or seen)


def expected_loss(settings: Settings, corpus: CorpusStats, curve: LossCurve) -> float:
    """Final validation loss in nats a token, at most that of a uniform guess, ln(vocabulary)."""
    per_byte = curve.loss(non_embedding_parameters(settings.model), run_data(settings, corpus))
    return min(math.log(corpus.vocab_size), per_byte * corpus.bytes_per_token)


def fit_to_runs(settings: Settings, corpus: CorpusStats, runs: Path, exclude: str = "") -> tuple[LossCurve, list[str]]:
    """The curve fitted to finished runs on the same dataset with the same architecture, and the names of these runs."""
    if corpus.dataset is None:
        return fit_curve([]), []
    points = {run.name: point for run, point in finished_runs(runs, corpus.dataset, settings) if run.name != exclude}
    return fit_curve(list(points.values())), list(points)


def finished_runs(runs: Path, dataset: Dataset, like: Settings) -> Iterator[tuple[RunFolder, LossPoint]]:
    for run in list_runs(runs):
        try:
            settings = validated(run.config())
            same_data = run.metadata().get("dataset_sha256") == dataset.fingerprint
            if not same_data or architecture(settings) != architecture(like):
                continue
            metrics = read_metrics(run.folder)
        except UserError:  # a damaged run, which 'fledge runs' reports
            continue
        losses = metrics.measured("val/loss")
        if losses and metrics.last_step == settings.train.steps:
            corpus = dataset_stats(settings, dataset)
            size = non_embedding_parameters(settings.model)
            yield run, LossPoint(size, run_data(settings, corpus), losses[-1] / corpus.bytes_per_token)


def architecture(settings: Settings) -> object:
    """What must be equal for two runs to lie on one loss curve: all of the model but its size, and the optimizer."""
    ignored = {"model": (*FOLLOWS_FROM_SIZE["model"], "vocab_size", "context", "attention")}
    return without({"model": vars(settings.model)}, ignored), settings.optim.optimizer
