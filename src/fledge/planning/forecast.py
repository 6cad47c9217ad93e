"""What a run will take and come to: what was measured once, times how often it will happen.

    settings + text + measured  →  seconds by kind, memory, expected loss

Arithmetic only: what is measured is in probe.py, the curve of the loss in curve.py.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.datasets.shards import Dataset
from fledge.model.flops import non_embedding_parameters, parameters, training_flops
from fledge.planning.corpus_stats import CorpusStats, counted_stats
from fledge.planning.loss_curve import LossCurve, LossPoint, fit, new_points
from fledge.planning.probe import ProbeResult
from fledge.runs.run_folder import RunFolder, list_runs
from fledge.settings.pipeline import validated, without
from fledge.settings.scaling_rules import FOLLOWS
from fledge.tracking.sinks import read_metrics
from fledge.training.complete import complete_settings, decide_settings
from fledge.training.config import Settings
from fledge.training.setup import compiles


@dataclass(frozen=True)
class TimeParts:
    start: float
    steps: float
    evaluations: float
    samples: float
    saves: float

    @property
    def total(self) -> float:
        return self.start + self.steps + self.evaluations + self.samples + self.saves


@dataclass(frozen=True)
class Forecast:
    parameters: int
    steps: int
    batch: int
    tokens: int  # of the whole run
    operations: int
    device: str
    dtype: str
    compiled: bool
    tokens_per_second: float
    step_seconds: float
    seconds: float
    parts: TimeParts  # of those seconds
    memory: int  # bytes
    loss: float
    loss_from: list[str]  # runs that the curve was fitted to
    text_known: bool


def make_forecast(
    settings: Settings, machine: Machine, measured: ProbeResult, text: CorpusStats, curve: LossCurve, runs: list[str]
) -> Forecast:
    train, step = settings.train, seconds_of_step(settings, measured)
    tokens = train.batch * settings.model.context
    parts = seconds_of_run(settings, measured, text)
    return Forecast(
        parameters=parameters(settings.model),
        steps=train.steps,
        batch=train.batch,
        tokens=train.steps * tokens,
        operations=train.steps * tokens * training_flops(settings.model),
        device=machine.device,
        dtype=machine.dtype,
        compiled=compiles(settings, machine),
        tokens_per_second=tokens / step,
        step_seconds=step,
        seconds=parts.total,
        parts=parts,
        memory=round(measured.memory),
        loss=expected_loss(settings, text, curve),
        loss_from=runs,
        text_known=text.dataset is not None,
    )


def complete_for_forecast(settings: Settings, text: CorpusStats, machine: Machine) -> Settings:
    """As training would settle it; of a text that is not here yet, with what is guessed of it."""
    if text.dataset is not None:
        return complete_settings(settings, text.dataset, machine)
    if settings.train.epochs is not None and not text.train:
        raise UserError(
            "how long train.epochs would take cannot be told: the length of the text is not known here",
            "say --train.steps instead, or prepare the text first: fledge prepare",
        )
    model = replace(settings.model, vocab_size=text.vocab_size)
    return decide_settings(replace(settings, model=model), text.train or 2 * model.context + 1, text.val, machine)


def seconds_of_run(settings: Settings, measured: ProbeResult, text: CorpusStats) -> TimeParts:
    """By the clock of the run itself, which begins when the text is prepared and the model is built."""
    train, steps = settings.train, settings.train.steps
    looks = occasions(train.eval_every or 0, steps) if text.val > 1 else set()
    samples = len(occasions(train.sample_every, steps)) + 1 if train.sample_every else 0
    saves = looks | occasions(train.save_every or steps, steps)  # on schedule, and when a look found it better
    return TimeParts(
        start=measured.start,
        steps=steps * seconds_of_step(settings, measured),
        evaluations=(len(looks) + bool(looks)) * text.val * measured.judging,
        samples=samples * settings.track.sample_tokens * measured.sampling,
        saves=len(saves) * measured.saving,
    )


def occasions(every: int, steps: int) -> set[int]:
    """After each of so many steps, and after the last; never where it is 0."""
    return {*range(every, steps + 1, every), steps} if every else set()


def seconds_of_step(settings: Settings, measured: ProbeResult) -> float:
    return measured.update + settings.train.batch * settings.model.context * measured.token


def expected_loss(settings: Settings, text: CorpusStats, curve: LossCurve) -> float:
    """Nats for each token, of the validation text at the end. Knowing nothing costs the logarithm of the vocabulary."""
    by_byte = curve.loss(non_embedding_parameters(settings.model), bytes_seen(settings, text))
    return min(math.log(text.vocab_size), by_byte * text.bytes_per_token)


def fitted(settings: Settings, text: CorpusStats, runs: Path, leave_out: str = "") -> tuple[LossCurve, list[str]]:
    """The curve, and the names of the runs that bent it: finished, on the same text, of the same parts."""
    if text.dataset is None:
        return fit([]), []
    points = {run.name: point for run, point in finished(runs, text.dataset, settings) if run.name != leave_out}
    return fit(list(points.values())), list(points)


def finished(runs: Path, dataset: Dataset, like: Settings) -> Iterator[tuple[RunFolder, LossPoint]]:
    for run in list_runs(runs):
        try:
            settings = validated(run.config())
            if run.facts().get("dataset_sha256") != dataset.fingerprint or kind(settings) != kind(like):
                continue
            columns = read_metrics(run.folder)
        except UserError:  # damaged: 'fledge runs' says so
            continue
        losses = [loss for loss in columns["val_loss"] if math.isfinite(loss)]
        if losses and max(columns["step"]) == settings.train.steps:
            yield run, point_of(settings, dataset, losses[-1])


def kind(settings: Settings) -> object:
    """Everything about a model and its rule that no dial turns."""
    model = {"model": {**vars(settings.model)}}
    return without(model, {"model": (*FOLLOWS["model"], "vocab_size", "context", "attention")}), settings.optim.rule


def point_of(settings: Settings, dataset: Dataset, loss: float) -> LossPoint:
    text = counted_stats(settings, dataset)
    seen = bytes_seen(settings, text)
    return LossPoint(non_embedding_parameters(settings.model), seen, loss / text.bytes_per_token)


def bytes_seen(settings: Settings, text: CorpusStats) -> float:
    """What was read, weighed by how new it was; of a text whose length is not known all of it is new."""
    seen = settings.train.steps * settings.train.batch * settings.model.context * text.bytes_per_token
    return new_points(seen, text.bytes or seen)
