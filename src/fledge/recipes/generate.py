"""Continue a prompt with the model of a run."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fledge.core import device as machines
from fledge.core.errors import UserError
from fledge.core.progress import notice
from fledge.inference.generate import stream_text
from fledge.inference.sampler import sampling_strategies
from fledge.runs.run_folder import LoadedCheckpoint, open_run
from fledge.settings.pipeline import validated
from fledge.training.result import last_saved_step


@dataclass(frozen=True)
class GeneratedText:
    run: str
    step: int
    prompt: str
    pieces: Iterator[str]  # the continuation; each piece comes as soon as it is generated


def generate_text(
    run: str | LoadedCheckpoint | None,
    prompt: str | None = None,
    *,
    runs: Path = Path("runs"),
    tokens: int = 300,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    device: str = "auto",
) -> GeneratedText:
    """Generate up to `tokens` tokens after `prompt`; None: the prompt of the run's samples.

    run: a name, a loaded checkpoint, or None for the latest run.

    In float32: a single sequence is limited by memory bandwidth, and the same seed gives the same text on all devices.
    """
    if tokens < 0:
        raise UserError(f"--tokens cannot be {tokens}", "it must be a whole number from 0 up")
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed cannot be {seed}", "it must be a whole number from 0 to 2^63 - 1")
    strategies = sampling_strategies(temperature, top_k, top_p)
    machine = machines.choose_machine(device, "float32")
    loaded = run if isinstance(run, LoadedCheckpoint) else load_best(run, runs, machine.device)
    if prompt is None:
        prompt = validated(loaded.run.config()).track.prompt or ""
    if prompt.endswith(" ") and loaded.tokenizer.kind != "char":
        notice("hint: the prompt ends in a space; tokens begin with theirs, so the text is better without it")
    pieces = stream_text(loaded.model.to(machine.device), loaded.tokenizer, prompt, strategies, machine, tokens, seed)
    return GeneratedText(loaded.run.name, loaded.checkpoint.step, prompt, pieces)


def load_best(reference: str | None, runs: Path, device: str) -> LoadedCheckpoint:
    """The checkpoint that the reference names, else the best one; says so where that is not the latest."""
    run = open_run(reference, runs, default="best")
    loaded = run.load(device)
    latest, used = last_saved_step(run), loaded.checkpoint.step
    if run.selector == "best" and used < latest:
        notice(
            f"using step {used:,} of '{run.name}', its best by validation loss;"
            f" the latest is {run.reference}@latest, step {latest:,}"
        )
    return loaded
