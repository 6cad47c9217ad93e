"""fledge demo: the whole journey, offline, in about three minutes, with a line of explanation at each step.

machine → text → tokens → size (by a short probe) → training → what it wrote before and after → what to do next
"""

import argparse
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fledge.cli.output import report
from fledge.core import device as machines
from fledge.core.cgroups import usable_cores
from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.core.formatting import format_duration, printable, short_path
from fledge.core.progress import notice
from fledge.datasets.cache import ensure_dataset
from fledge.datasets.shards import Dataset
from fledge.model.flops import parameters
from fledge.recipes.train import TrainRequest, train_request
from fledge.settings.pipeline import resolve
from fledge.tracking.plots import draw
from fledge.tracking.sinks.jsonl import read_events
from fledge.training.complete import complete_settings
from fledge.training.config import Settings
from fledge.training.result import TrainResult
from fledge.training.setup import build_training

# layers, width, heads: from what a slow laptop can teach in time to what a fast machine can
SIZES = ((3, 128, 4), (4, 256, 4), (6, 384, 6), (8, 512, 8))
ENOUGH_STEPS = 500  # fewer updates than this teach less than a smaller model would learn
MOST_STEPS = 3000
OVERHEAD = 25.0  # seconds for everything that is not an update: preparing, judging, sampling, drawing
SPARE = 1.15  # machines slow down as they warm up


def run(args: argparse.Namespace) -> None:
    if not 0.5 <= args.minutes < float("inf"):
        raise UserError(f"--minutes cannot be {args.minutes}", "a demo takes half a minute or more")
    begun = time.perf_counter()
    settings = resolve("demo")
    machine = machines.choose_machine()
    tell("1. machine", f"{usable_cores()} cores; training on {machine.device} in {machine.dtype}. More: fledge doctor")
    tell("2. text", "the standard library of your own Python, and its language reference")
    dataset = ensure_dataset(
        settings.data, settings.tokenizer, check=lambda made: complete_settings(settings, made, machine)
    )
    tokens, size = len(dataset.split("train")), dataset.tokenizer.vocab_size
    tell("3. tokens", f"cut into pieces, of which there are {size:,}: {tokens:,} of them to learn from")
    settings = fit_to_time(settings, machine, dataset, 60 * args.minutes - OVERHEAD)
    model, steps = settings.model, settings.train.steps
    tell("4. model", f"{model.n_layer} blocks, {model.n_embd} wide: {parameters(model):,} numbers, drawn at random")
    tell(
        "5. training",
        f"{steps:,} steps fit into {args.minutes:g} minutes on this machine; each shows the model some text,",
    )
    tell("", "and moves every number a little, so that the true next piece becomes likelier")
    outcome = train_request(TrainRequest(settings, "demo"), args.runs)
    pictures = draw([Path(outcome.folder)], Path(outcome.folder) / "plots")
    answer = {
        **asdict(outcome),
        "samples": before_and_after(Path(outcome.folder)),
        "seconds": time.perf_counter() - begun,
    }
    report(answer, as_json=args.json, text=closing(answer, outcome, pictures[-1]))


def tell(name: str, text: str) -> None:
    """What happens now, in a line."""
    notice(f"{name:<12} {text}")


def fit_to_time(settings: Settings, machine: Machine, dataset: Dataset, seconds: float) -> Settings:
    """The largest size that this machine can still give enough steps to, and how many steps that is."""
    fitted = settings
    for n_layer, n_embd, n_head in SIZES:
        model = replace(settings.model, n_layer=n_layer, n_embd=n_embd, n_head=n_head)
        # Compiling would take half a minute of the three, more than it gives back in so short a run.
        eager = replace(settings.train, compile=False)
        tried = complete_settings(replace(settings, model=model, train=eager), dataset, machine)
        steps = int(seconds / (SPARE * seconds_per_step(tried, machine, dataset)))
        if steps < ENOUGH_STEPS and fitted is not settings:
            break
        steps = max(10, min(MOST_STEPS, steps))
        fitted = replace(tried, train=replace(tried.train, steps=steps, **rhythm(steps)))
        if steps < 2 * ENOUGH_STEPS:  # a larger one would take at least twice as long: no need to try
            break
    return fitted


def rhythm(steps: int) -> dict[str, Any]:
    """Four looks at the validation text and eight samples, however long it takes."""
    quarter = max(1, -(-steps // 4))
    return {"eval_every": quarter, "save_every": quarter, "sample_every": max(1, -(-steps // 8))}


def seconds_per_step(settings: Settings, machine: Machine, dataset: Dataset) -> float:
    """Measured on the real thing: a few updates of a model that is then thrown away."""
    stepper = build_training(settings, machine, dataset.split("train"))
    return min(stepper(step).seconds for step in range(6))


def before_and_after(folder: Path) -> list[dict[str, Any]]:
    told = read_events(folder)
    samples = [{"step": e["step"], "text": e["prompt"] + e["text"]} for e in told if e["event"] == "Sample"]
    return [samples[0], samples[-1]]


def closing(answer: dict[str, Any], outcome: TrainResult, picture: Path) -> str:
    before, after = (indented(sample["text"]) for sample in answer["samples"])
    name = outcome.run
    return f"""
what it wrote before the first step:
{before}

what it writes after {outcome.step:,} steps:
{after}

{format_duration(answer["seconds"])} in all. The curves: {short_path(picture)}
Everything else about this run lies in {short_path(Path(outcome.folder))}.

what next:
{next_steps(name)}"""


def next_steps(name: str) -> str:
    steps = {
        f"fledge generate {name} --prompt 'class'": "let it write",
        f"fledge eval {name}": "judge it on text it has not seen",
        "fledge train demo --train.steps 10000": "train longer",
        "fledge train demo --data.corpus FILE": "train on your own text",
        "fledge --help": "the whole journey",
    }
    return "\n".join(f"  {command:<42}{what}" for command, what in steps.items())


def indented(text: str, lines: int = 12) -> str:
    return "\n".join(f"    | {line:.86}" for line in printable(text).splitlines()[:lines])
