"""End-to-end demo, offline, in about three minutes, with a line of explanation at each stage.

machine → text → tokens → the model that the time is enough for → training → samples before and after

It is `fledge train python --minutes 3` (with the recipe of planning/recipe.py), told from the beginning.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from fledge.core import device as machines
from fledge.core.cgroups import usable_cores
from fledge.core.config import Layer
from fledge.core.distributed import SINGLE_PROCESS
from fledge.core.errors import UserError
from fledge.core.progress import notice
from fledge.datasets.cache import ensure_dataset
from fledge.model.flops import parameter_count
from fledge.planning.corpus_stats import text_characters
from fledge.planning.sized import with_vocabulary
from fledge.recipes.request import TrainRequest, fit_to_time
from fledge.recipes.train import train_request
from fledge.settings.layers import read_preset
from fledge.settings.pipeline import validated
from fledge.settings.words import TEXT_PRESET
from fledge.tracking.plots import draw
from fledge.tracking.sinks.jsonl import read_events

DRAWING_SECONDS = 3.0
SETTINGS: Layer = {
    "data": {"corpus": "python"},
    "train": {"sample_every": 100},
    "track": {"prompt": "def __init__(self", "sample_tokens": 160, "temperature": 0.6},
}


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


def demo(minutes: float = 3.0, runs: Path = Path("runs"), begun: float | None = None) -> DemoResult:
    """Train the best model that this machine can in `minutes`, counted from `begun` (on time.perf_counter) or now."""
    if not 0.5 <= minutes < float("inf"):
        raise UserError(f"--minutes cannot be {minutes}", "a demo takes half a minute or more")
    begun = time.perf_counter() if begun is None else begun
    base, machine = read_preset(TEXT_PRESET)[0], machines.choose_machine()
    explain("1. machine", f"{usable_cores()} cores; training on {machine.device} in {machine.dtype}; see fledge doctor")
    explain("2. text", "the standard library of your own Python, and its language reference")
    overrides = with_vocabulary(base, SETTINGS, text_characters(validated(base, SETTINGS)))
    settings = validated(base, overrides)
    dataset = ensure_dataset(settings.data, settings.tokenizer)
    tokens, vocab_size = len(dataset.split("train")), dataset.tokenizer.vocab_size
    explain("3. tokens", f"the text is split into {tokens:,} tokens, from a vocabulary of {vocab_size:,}")
    request = TrainRequest(settings, "demo", base=base, overrides=overrides, preset=TEXT_PRESET)
    request = fit_to_time(request, minutes - DRAWING_SECONDS / 60, runs, SINGLE_PROCESS, begun)
    model, train = replace(request.settings.model, vocab_size=vocab_size), request.settings.train
    explain("4. model", f"{model.n_layer} blocks, {model.n_embd} wide: {parameter_count(model):,} random parameters")
    explain("5. training", f"about {train.steps:,} steps fit into {minutes:g} minutes on this machine. First the model")
    explain("", "learns which tokens follow each other, by counting; then each step shows it some text and")
    explain("", "changes every parameter a little, so that the next token becomes more likely")
    result = train_request(replace(request, expected=None), runs, begun=begun)
    folder = Path(result.folder)
    events = [event for event in read_events(folder) if event["event"] == "Sample"]
    samples = [SampleText(event["step"], event["prompt"] + event["text"]) for event in (events[0], events[-1])]
    picture = draw([folder], folder / "plots")[-1]
    seconds = time.perf_counter() - begun
    return DemoResult(result.run, result.folder, result.step, result.val_loss, samples, picture, seconds)


def explain(stage: str, text: str) -> None:
    notice(f"{stage:<12} {text}")
