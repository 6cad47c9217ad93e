"""Measure the costs of a run in a few seconds: build the model, make some real updates, throw it away.

    build → first step (compilation) → steps until their mean is stable → evaluate → sample → save a checkpoint

Token ids are random, with frequencies by Zipf's law, so no text is needed. A micro-batch that would take too long is
measured at a smaller size and scaled up. How often each cost occurs in a run is for forecast.py.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from fledge.batches.loader import Loader, WindowReader
from fledge.batches.sampler import WindowSampler
from fledge.checkpoint import store
from fledge.checkpoint.state import State, Tensors, capture, snapshot, state_bytes
from fledge.core import device as machines
from fledge.core.device import Machine
from fledge.datasets.shards import Split
from fledge.evaluation.loss import eval_batch_size, evaluate_loss
from fledge.inference.generate import generate
from fledge.inference.sampler import sampling_strategies
from fledge.model import flops
from fledge.model.config import ModelConfig
from fledge.training.config import Settings
from fledge.training.micro_batch import FixedMicroBatch
from fledge.training.setup import NextToken, activation_options, build_training, initial_micro_batch
from fledge.training.step import TrainStep

# Shares of the time for a probe: updates, for each of two batch sizes; the longest micro-batch that is measured at its
# full size; evaluation; generating.
STEPS_SHARE, MICRO_BATCH_SHARE, EVALUATION_SHARE, SAMPLE_SHARE = 0.3, 0.1, 0.1, 0.07
MIN_STEPS = 12
LEAST_SAMPLED = 3  # tokens that are generated however long they take
STABLE = 0.02  # relative difference between the mean of all steps and that of the later half
TRIMMED = 0.1  # share of the fastest and of the slowest steps that the mean leaves out
MAX_SAVED_BYTES = 256 << 20  # of a larger checkpoint, only a part is written
# FLOP/s assumed before anything is measured, to guess what can be tried in a moment.
ASSUMED_RATES = {"cuda": 2e13, "mps": 1e12}


@dataclass(frozen=True)
class Costs:
    """Seconds for each occurrence, and peak memory in bytes."""

    startup: float  # of the first step, beyond an ordinary one: mostly compilation
    per_token: float  # forward and backward
    per_step: float  # the rest of an update: optimizer, clipping
    per_eval_token: float
    per_sampled_token: float
    per_checkpoint: float
    peak_memory: float


def measure_costs(settings: Settings, machine: Machine, folder: Path, seconds: float) -> Costs:
    """The costs of a run with these completed settings; `folder` is on the disk that checkpoints will go to.

    It takes about `seconds`, and longer only where a single update does, or compiling.
    """
    model, train, context = settings.model, settings.train, settings.train_context
    assert model.vocab_size is not None
    planned = initial_micro_batch(settings, machine)
    affordable = int(MICRO_BATCH_SHARE * seconds * tokens_per_second_guess(model, machine)) // context
    rows = min(planned, max(1, affordable))
    machines.reset_peak_memory(machine.device)
    # Evaluation costs a third of training, and its batches are often larger: measure it at its own size.
    eval_tokens = min(
        3 * affordable * context, eval_batch_size(model.context, model.vocab_size, machine) * model.context
    )
    noise = random_split(model.vocab_size, max(2 * rows * context, eval_tokens))
    measured = replace(settings, train=replace(train, batch=rows, micro_batch=rows))
    step = build_training(measured, machine, NextToken(measured, machine, noise))
    step.multiplier = lambda _: 0.0  # an update takes as long, and the weights stay finite
    first = step(0).seconds
    one = mean_step_seconds(step, STEPS_SHARE * seconds)
    two = one
    if train.batch > rows:  # gradient accumulation: measure what a second micro-batch adds
        sampler = WindowSampler(len(noise), context, context, 0)
        step.batches = FixedMicroBatch(Loader(WindowReader(noise, sampler), 2 * rows, machine), rows)
        two = mean_step_seconds(step, STEPS_SHARE * seconds)
    # With one micro-batch in a step the two parts cannot be told apart, and need not be.
    micro_batch = min(one, max(one / 2, two - one)) if train.batch > rows else one
    width = machine.torch_dtype.itemsize
    planned_bytes, probed_bytes = (
        flops.activation_bytes(settings.trained_model, n, width, **activation_options(settings))
        for n in (planned, rows)
    )
    per_eval_token = eval_token_seconds(step, noise, machine, EVALUATION_SHARE * seconds)
    per_sampled_token = sampled_token_seconds(step, settings, machine, SAMPLE_SHARE * seconds)
    per_checkpoint = checkpoint_seconds(step, folder)
    return Costs(
        startup=max(0.0, first - one),
        per_token=micro_batch / (rows * context),
        per_step=one - micro_batch,
        per_eval_token=per_eval_token,
        per_sampled_token=per_sampled_token,
        per_checkpoint=per_checkpoint,
        peak_memory=machines.peak_memory(machine.device) + planned_bytes - probed_bytes,
    )


def tokens_per_second_guess(model: ModelConfig, machine: Machine) -> float:
    """Training speed of this model if half of the machine's matmul rate is reached."""
    rate = ASSUMED_RATES.get(machine.device) or 1e9 * machines.matmul_rates()[machine.dtype == "bfloat16"] / 2
    return rate / flops.training_flops(model)


def random_split(vocab_size: int, tokens: int) -> Split:
    chance = np.random.default_rng(0).random(tokens + 1)
    # The token of rank n is as frequent as 1/n, so that a batch has about as many different targets as one of text:
    # with train.sampled_softmax they are what the head costs.
    ids = (vocab_size**chance).astype(np.int64) - 1
    return Split("noise", [ids], [np.zeros(1, dtype=np.int64)])


def mean_step_seconds(step: TrainStep, limit: float) -> float:
    """Trimmed mean of the seconds of a step, over up to `limit` seconds or until it is stable.

    A mean, as beside another busy program a few steps take several times as long as most.
    """
    end, spent = time.perf_counter() + limit, [step(0).seconds]
    while time.perf_counter() < end:
        spent.append(step(len(spent)).seconds)
        mean, late = trimmed_mean(spent), trimmed_mean(spent[len(spent) // 2 :])
        if len(spent) >= MIN_STEPS and time.perf_counter() > end - limit / 2 and abs(late / mean - 1) < STABLE:
            break
    return trimmed_mean(spent)


def trimmed_mean(values: Sequence[float]) -> float:
    left_out = int(TRIMMED * len(values))
    return statistics.mean(sorted(values)[left_out : len(values) - left_out])


def eval_token_seconds(step: TrainStep, noise: Split, machine: Machine, limit: float) -> float:
    """Seconds for each evaluated token. The first, slow evaluation counts only if it takes too long to repeat."""
    vocab_size = step.model.config.vocab_size
    assert vocab_size is not None
    lengths = np.ones(vocab_size, dtype=np.int64)
    end, spent = time.perf_counter() + limit, list[float]()
    while not spent or time.perf_counter() < end:
        spent.append(seconds_of(lambda: evaluate_loss(step.model, noise, lengths, machine)))
    return trimmed_mean(spent[1:] or spent) / (len(noise) - 1)


def sampled_token_seconds(step: TrainStep, settings: Settings, machine: Machine, limit: float) -> float:
    """The median of all tokens but the first, for which the decoder is built: a few are slow on a busy machine."""
    strategies, tokens = sampling_strategies(settings.track.temperature), settings.track.sample_tokens
    marks = [time.perf_counter()]
    for _ in generate(step.model, torch.zeros(1, 1, dtype=torch.long), strategies, machine, tokens, 0):
        marks.append(time.perf_counter())
        if len(marks) > LEAST_SAMPLED and marks[-1] - marks[0] > limit:
            break
    spent = np.diff(marks)
    return float(np.median(spent[1:] if len(spent) > 1 else spent)) if len(spent) else 0.0


def checkpoint_seconds(step: TrainStep, folder: Path) -> float:
    state = capture(step.model, step.optimizer, 0)
    weights = first_tensors(state.weights, MAX_SAVED_BYTES)
    part = State(0, weights, first_tensors(state.optimizer, 2 * MAX_SAVED_BYTES), state.rng)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        spent = seconds_of(lambda: store.save(Path(temporary), snapshot(part)))
    return spent * state_bytes(state) / state_bytes(part)


def first_tensors(tensors: Tensors, limit: int) -> Tensors:
    """The first tensors that together hold at most `limit` bytes, and at least one."""
    kept: Tensors = {}
    for name, tensor in tensors.items():
        if kept and sum(each.nbytes for each in kept.values()) + tensor.nbytes > limit:
            break
        kept[name] = tensor
    return kept


def seconds_of(fn: Callable[[], object]) -> float:
    begun = time.perf_counter()
    fn()
    return time.perf_counter() - begun
