"""Forecast a run: its time, its peak memory and its final loss, from measured costs and how often each occurs.

    settings + corpus + costs  →  seconds for each activity, memory;  loss_forecast.py  →  expected loss

This module measures nothing: probe.py does.
"""

import math
from dataclasses import dataclass, replace

from fledge.checkpoint.save_timer import SAVE_SHARE
from fledge.checkpoint.thinning import history_steps
from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.evaluation.schedule import WHOLE_SPLIT_PASSES, evaluates_whole_split, scheduled_steps
from fledge.model.flops import parameter_count, training_flops
from fledge.planning.corpus_stats import CorpusStats
from fledge.planning.loss_forecast import Interval, RunPoint, forecast_loss, read_table, run_point
from fledge.planning.probe import Costs
from fledge.settings.complete import complete_settings, decide_settings
from fledge.training.config import Settings
from fledge.training.ngram_fit import batch_rows
from fledge.training.setup import can_compile, learned_tokens

NGRAM_ROW = 0.65  # of the time of a token, as measured for small models and vocabularies of 2,048 to 8,192
WEIGHTS_SHARE = 1 / 3  # of the cost of a checkpoint; the rest is the state of the optimizer


@dataclass(frozen=True)
class TimeParts:
    """Seconds of a run by activity."""

    startup: float
    ngrams: float  # train.ngram_steps
    steps: float
    evaluations: float
    samples: float
    checkpoints: float

    @property
    def total(self) -> float:
        return self.startup + self.ngrams + self.steps + self.evaluations + self.samples + self.checkpoints


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
    bits_per_byte: Interval | None  # of the validation split at the end; None: no run like this was measured
    loss: Interval | None  # the same in nats per token
    fitted_runs: list[str]  # the user's finished runs on this text, which make the interval narrower
    corpus_known: bool  # False: the size of the text and the vocabulary are estimates


def make_forecast(
    settings: Settings, machine: Machine, costs: Costs, corpus: CorpusStats, own_runs: dict[str, RunPoint]
) -> Forecast:
    """`own_runs`: the user's finished runs on this text."""
    train, step = settings.train, step_seconds(settings, costs)
    tokens = train.steps * settings.step_tokens
    if corpus.train_tokens:
        tokens = learned_tokens(settings, corpus.train_tokens, train.steps)
    parts = run_seconds(settings, costs, corpus)
    point = run_point(settings, corpus)
    bits = forecast_loss(point, (*read_table(), *own_runs.values())) if point else None
    return Forecast(
        parameters=parameter_count(settings.model),
        steps=train.steps,
        batch=train.batch,
        tokens=tokens,
        flops=train.steps * settings.step_tokens * training_flops(settings.trained_model),
        device=machine.device,
        dtype=machine.dtype,
        compiled=can_compile(settings, machine),
        tokens_per_second=settings.step_tokens / step,
        step_seconds=step,
        seconds=parts.total,
        parts=parts,
        memory=round(costs.peak_memory),
        bits_per_byte=bits,
        loss=bits * (math.log(2) * corpus.bytes_per_token) if bits else None,
        fitted_runs=list(own_runs),
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
    train_tokens = corpus.train_tokens or 2 * settings.train_context + 1
    return decide_settings(replace(settings, model=model), train_tokens, corpus.val_tokens, machine)


def run_seconds(settings: Settings, costs: Costs, corpus: CorpusStats) -> TimeParts:
    """Seconds from the moment that the text is prepared and the model is built, as a run itself counts them."""
    train, steps = settings.train, settings.train.steps
    evaluated = set(scheduled_steps(train.eval_every or 0, steps)) if corpus.val_tokens > 1 else set()
    samples = len(scheduled_steps(train.sample_every, steps)) + 1 if train.sample_every else 0
    stepping = steps * step_seconds(settings, costs)
    saved = len(evaluated.union(scheduled_steps(train.save_every or steps, steps)))  # an improved loss is saved, too
    interval = max(train.save_seconds, costs.per_checkpoint / SAVE_SHARE)
    by_time = max(0.0, stepping / interval - saved) if train.save_seconds else 0.0
    history = len(history_steps(steps, train.history)) * WEIGHTS_SHARE
    return TimeParts(
        startup=costs.startup,
        ngrams=ngram_seconds(settings, costs),
        steps=stepping,
        evaluations=evaluated_tokens(settings, corpus, len(evaluated)) * costs.per_eval_token,
        samples=samples * settings.track.sample_tokens * costs.per_sampled_token,
        checkpoints=(saved + by_time + history) * costs.per_checkpoint,
    )


def ngram_seconds(settings: Settings, costs: Costs) -> float:
    """A row of a batch of counts takes about so much of a token's time: the head, but no blocks."""
    vocab_size = settings.model.vocab_size or settings.tokenizer.size
    return settings.train.ngram_steps * batch_rows(vocab_size) * NGRAM_ROW * costs.per_token


def evaluated_tokens(settings: Settings, corpus: CorpusStats, evaluations: int) -> int:
    """Of the samples, one of them before the first step, and of the whole split at the end."""
    if not evaluations:
        return 0
    train, whole = settings.train, corpus.val_tokens
    sample = min(train.eval_tokens or whole, whole)
    ends_whole = sample < whole and evaluates_whole_split(train.steps, settings.step_tokens, whole)
    return (evaluations + 1) * sample + WHOLE_SPLIT_PASSES * whole * ends_whole


def step_seconds(settings: Settings, costs: Costs) -> float:
    return costs.per_step + settings.step_tokens * costs.per_token
