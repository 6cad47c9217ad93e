"""What a training would cost, measured: a model of these settings makes a few real updates, and is thrown away.

build → first update (a compiler writes its code) → updates until their median is steady → judge → sample → save

The ids are random, so no text is needed. What would take too long here is measured on fewer sequences at once, and
scaled.
Says nothing of how many updates there will be: plan.py does.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from fledge.batches.loader import Loader
from fledge.batches.sampler import WindowSampler
from fledge.checkpoint import store
from fledge.checkpoint.state import State, Tensors, capture, snapshot, state_bytes
from fledge.core import device as machines
from fledge.core.device import Machine
from fledge.core.progress import notice
from fledge.datasets.shards import Split
from fledge.evaluation.loss import evaluate_loss, rows_at_once
from fledge.inference.generate import generate
from fledge.inference.sampler import sampling_strategies
from fledge.model import flops
from fledge.model.config import ModelConfig
from fledge.training.config import Settings
from fledge.training.micro_batch import FixedMicroBatch
from fledge.training.setup import activations_kept, build_training, initial_micro_batch
from fledge.training.step import TrainStep

STEPPING = 4.0  # seconds of updates, for each of two sizes of batch
AT_A_TIME = 1.5  # seconds that one portion should take here at most
STEADY = 0.02  # two halves whose medians are this near tell the same
ENOUGH = 12  # updates
SAMPLING = 1.0  # seconds
SAVED = 256 << 20  # bytes; larger states are saved in part
# Operations a second where nothing was measured: only to guess how much can be tried in a moment.
RATES = {"cuda": 2e13, "mps": 1e12}


@dataclass(frozen=True)
class ProbeResult:
    """Seconds, and the most bytes that were held."""

    start: float  # what the first update takes more than others, building before it left out
    token: float  # forward and backward, for each token
    update: float  # the rest of an update, once a batch
    judging: float  # for each token of the validation text
    sampling: float  # for each token written
    saving: float  # for each checkpoint
    memory: float

    def between(self, other: "ProbeResult", share: float) -> "ProbeResult":
        """As of a model that is `share` of the way to another, from 0 to 1: each cost grows evenly with the model's."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return ProbeResult(*(a + share * (b - a) for a, b in pairs))


def measure(settings: Settings, machine: Machine, folder: Path) -> ProbeResult:
    """`settings` are decided to the last; `folder` is on the disk that checkpoints will go to."""
    model, train = settings.model, settings.train
    assert model.vocab_size is not None
    planned = initial_micro_batch(settings, machine)
    tried = int(AT_A_TIME * affordable(model, machine)) // model.context  # sequences
    rows = min(planned, max(1, tried))
    machines.reset_peak_memory(machine.device)
    # Judging takes a third of learning, and its portion is often the larger one: it should be as large here.
    noise = random_split(model, max(2 * rows, min(3 * tried, rows_at_once(model.context, model.vocab_size, machine))))
    stepper = build_training(replace(settings, train=replace(train, batch=rows, micro_batch=rows)), machine, noise)
    stepper.multiplier = lambda _: 0.0  # an update takes as long, and noise teaches nothing
    first = stepper(0).seconds
    one = steady(stepper, STEPPING)
    gathered = one
    if train.batch > rows:  # gradients of several portions are gathered: what does one more cost?
        stepper.batches = FixedMicroBatch(Loader(noise, _order(model, noise), 2 * rows, machine), rows, notice)
        gathered = steady(stepper, STEPPING)
    # In a batch of one portion nothing tells the two apart, and nothing has to.
    portions = min(one, max(one / 2, gathered - one)) if train.batch > rows else one
    judging = seconds_of_evaluation(stepper, noise, machine)
    sampling = seconds_of_sampling(stepper, settings, machine)
    saving = seconds_of_saving(stepper, folder)
    width = machine.torch_dtype.itemsize
    wanted, held = (flops.activation_bytes(model, n, width, **activations_kept(settings)) for n in (planned, rows))
    memory = machines.peak_memory(machine.device) + wanted - held
    token = portions / (rows * model.context)
    return ProbeResult(max(0.0, first - one), token, one - portions, judging, sampling, saving, memory)


def affordable(model: ModelConfig, machine: Machine) -> float:
    """About how many tokens can be learned from in a second, if half of what the machine can do arrives."""
    rate = RATES.get(machine.device) or 1e9 * machines.matmul_rates()[machine.dtype == "bfloat16"] / 2
    return rate / flops.training_flops(model)


def random_split(model: ModelConfig, sequences: int) -> Split:
    assert model.vocab_size is not None
    ids = np.random.default_rng(0).integers(model.vocab_size, size=sequences * model.context + 1)
    return Split("noise", [ids], [np.zeros(1, dtype=np.int64)])


def _order(model: ModelConfig, split: Split) -> WindowSampler:
    return WindowSampler(len(split), model.context, model.context, 0)


def steady(stepper: TrainStep, limit: float) -> float:
    """Seconds of an update: the median, once the later half tells the same as all."""
    end, spent = time.perf_counter() + limit, [stepper(0).seconds]
    while time.perf_counter() < end:
        spent.append(stepper(len(spent)).seconds)
        middle, late = statistics.median(spent), statistics.median(spent[len(spent) // 2 :])
        if len(spent) >= ENOUGH and time.perf_counter() > end - limit / 2 and abs(late / middle - 1) < STEADY:
            break
    return statistics.median(spent)


def seconds_of_evaluation(stepper: TrainStep, noise: Split, machine: Machine) -> float:
    """For each token. The first look is not counted: it makes room that the others use again."""
    vocab_size = stepper.model.config.vocab_size
    assert vocab_size is not None
    lengths = np.ones(vocab_size, dtype=np.int64)
    spent = seconds_of(lambda: evaluate_loss(stepper.model, noise, lengths, machine))
    if spent < AT_A_TIME:
        spent = statistics.median(
            seconds_of(lambda: evaluate_loss(stepper.model, noise, lengths, machine)) for _ in range(3)
        )
    return spent / (len(noise) - 1)


def seconds_of_sampling(stepper: TrainStep, settings: Settings, machine: Machine) -> float:
    row, wanted = sampling_strategies(settings.track.temperature), settings.track.sample_tokens
    begun, written = time.perf_counter(), 0
    for _ in generate(stepper.model, torch.zeros(1, 1, dtype=torch.long), row, machine, wanted, 0):
        written += 1
        if time.perf_counter() - begun > SAMPLING:
            break
    return (time.perf_counter() - begun) / max(1, written)


def seconds_of_saving(stepper: TrainStep, folder: Path) -> float:
    state = capture(stepper.model, stepper.optimizer, 0)
    part = State(0, first_of(state.weights, SAVED), first_of(state.optimizer, 2 * SAVED), state.rng)
    with tempfile.TemporaryDirectory(dir=folder) as here:
        spent = seconds_of(lambda: store.save(Path(here), snapshot(part)))
    return spent * state_bytes(state) / state_bytes(part)


def first_of(tensors: Tensors, limit: int) -> Tensors:
    """As many as there is room for, and at least one."""
    kept: Tensors = {}
    for name, tensor in tensors.items():
        if kept and sum(each.nbytes for each in kept.values()) + tensor.nbytes > limit:
            break
        kept[name] = tensor
    return kept


def seconds_of(act: Callable[[], object]) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun
