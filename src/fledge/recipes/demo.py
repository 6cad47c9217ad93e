"""End-to-end demo, offline, in about three minutes, with a line of explanation at each stage.

machine → text → tokens → model size (by a short measurement) → training → samples before and after
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from fledge.core import device as machines
from fledge.core.cgroups import usable_cores
from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.core.progress import notice
from fledge.datasets.cache import ensure_dataset
from fledge.datasets.shards import Dataset
from fledge.model.flops import parameter_count
from fledge.recipes.request import TrainRequest
from fledge.recipes.train import train_request
from fledge.settings.complete import complete_settings
from fledge.settings.pipeline import resolve
from fledge.tracking.plots import draw
from fledge.tracking.sinks.jsonl import read_events
from fledge.training.config import Settings
from fledge.training.setup import NextToken, build_training

# (layers, width, heads), smallest first: the largest with enough steps is trained
SIZES = ((3, 128, 4), (4, 256, 4), (6, 384, 6), (8, 512, 8))
MIN_STEPS, MAX_STEPS = 500, 3000  # with fewer steps a smaller model learns more
OVERHEAD_SECONDS = 25.0  # for preparing, evaluating, sampling and drawing
SLOWDOWN = 1.15  # machines slow down as they warm up
MEASURED_STEPS = 6


@dataclass(frozen=True)
class SampleText:
    step: int
    text: str


@dataclass(frozen=True)
class DemoResult:
    run: str
    folder: str
    step: int
    val_loss: float | None
    samples: list[SampleText]  # before the first step, and after the last
    picture: Path
    seconds: float


def demo(minutes: float = 3.0, runs: Path = Path("runs")) -> DemoResult:
    """Train the largest model that learns something in `minutes` on this machine."""
    if not 0.5 <= minutes < float("inf"):
        raise UserError(f"--minutes cannot be {minutes}", "a demo takes half a minute or more")
    begun = time.perf_counter()
    settings, machine = resolve("demo"), machines.choose_machine()
    explain("1. machine", f"{usable_cores()} cores; training on {machine.device} in {machine.dtype}; see fledge doctor")
    explain("2. text", "the standard library of your own Python, and its language reference")
    dataset = ensure_dataset(
        settings.data, settings.tokenizer, check=lambda made: complete_settings(settings, made, machine)
    )
    tokens, vocab_size = len(dataset.split("train")), dataset.tokenizer.vocab_size
    explain("3. tokens", f"the text is split into {tokens:,} tokens, from a vocabulary of {vocab_size:,}")
    fitted = choose_size(settings, machine, dataset, 60 * minutes - OVERHEAD_SECONDS)
    model, steps = fitted.model, fitted.train.steps
    explain("4. model", f"{model.n_layer} blocks, {model.n_embd} wide: {parameter_count(model):,} random parameters")
    explain("5. training", f"{steps:,} steps fit into {minutes:g} minutes on this machine. Each shows the model some")
    explain("", "text and changes every parameter a little, so that the next token becomes more likely")
    result = train_request(TrainRequest(fitted, "demo", preset="demo"), runs)
    folder = Path(result.folder)
    events = [event for event in read_events(folder) if event["event"] == "Sample"]
    samples = [SampleText(event["step"], event["prompt"] + event["text"]) for event in (events[0], events[-1])]
    picture = draw([folder], folder / "plots")[-1]
    seconds = time.perf_counter() - begun
    return DemoResult(result.run, result.folder, result.step, result.val_loss, samples, picture, seconds)


def explain(stage: str, text: str) -> None:
    notice(f"{stage:<12} {text}")


def choose_size(settings: Settings, machine: Machine, dataset: Dataset, seconds: float) -> Settings:
    """The largest of SIZES that gets at least MIN_STEPS, with as many steps as fit."""
    fitted = settings
    for n_layer, n_embd, n_head in SIZES:
        model = replace(settings.model, n_layer=n_layer, n_embd=n_embd, n_head=n_head)
        eager = replace(settings.train, compile=False)  # compiling takes longer than it saves in so short a run
        tried = complete_settings(replace(settings, model=model, train=eager), dataset, machine)
        steps = int(seconds / (SLOWDOWN * seconds_per_step(tried, machine, dataset)))
        if steps < MIN_STEPS and fitted is not settings:
            break
        steps = max(10, min(MAX_STEPS, steps))
        eighth = max(1, -(-steps // 8))
        train = replace(
            tried.train, steps=steps, sample_every=eighth, eval_every=None, eval_tokens=None, save_every=None
        )
        fitted = complete_settings(replace(tried, train=train), dataset, machine)
        if steps < 2 * MIN_STEPS:  # the next size takes at least twice as long
            break
    return fitted


def seconds_per_step(settings: Settings, machine: Machine, dataset: Dataset) -> float:
    """The fastest of a few steps of a model that is then discarded."""
    step = build_training(settings, machine, NextToken(settings, machine, dataset.split("train")))
    return min(step(number).seconds for number in range(MEASURED_STEPS))
