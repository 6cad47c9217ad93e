"""Continue a prompt with the model of a run."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fledge.core import device as machines
from fledge.core.errors import UserError
from fledge.inference.generate import stream_text
from fledge.inference.sampler import sampling_strategies
from fledge.runs.run_folder import LoadedCheckpoint, open_run
from fledge.settings.pipeline import validated


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
    loaded = run if isinstance(run, LoadedCheckpoint) else open_run(run, runs, default="best").load(machine.device)
    if prompt is None:
        prompt = validated(loaded.run.config()).track.prompt or ""
    pieces = stream_text(loaded.model.to(machine.device), loaded.tokenizer, prompt, strategies, machine, tokens, seed)
    return GeneratedText(loaded.run.name, loaded.checkpoint.step, prompt, pieces)
