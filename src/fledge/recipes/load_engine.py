"""Load a run for inference, in one way for generate, chat, eval and serve.

run reference → checkpoint → model on the device → decoder (the fastest correct path) → engine
"""

from dataclasses import dataclass
from pathlib import Path

from fledge.core import device as machines
from fledge.core.device import Machine, total_memory
from fledge.core.progress import notice
from fledge.inference.choose_decoder import DecoderChoice, choose_decoder
from fledge.inference.engine import Engine
from fledge.model.config import ModelConfig
from fledge.model.flops import cache_bytes
from fledge.runs.methods import refuse_reward_model
from fledge.runs.run_folder import LoadedCheckpoint, RunFolder, open_run
from fledge.runs.status import last_saved_step
from fledge.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class LoadedEngine:
    run: RunFolder
    step: int
    tokenizer: Tokenizer
    model: ModelConfig
    machine: Machine
    engine: Engine
    choice: DecoderChoice  # the path: how it computes, and how fast that was when it was measured


def load_engine(
    run: str | LoadedCheckpoint | None,
    runs: Path = Path("runs"),
    *,
    slots: int = 1,
    device: str = "auto",
    dtype: str = "auto",
) -> LoadedEngine:
    """run: a name, a loaded checkpoint, or None for the latest run. slots: texts that are generated at the same time.

    dtype: of the weights; auto: the fastest that is precise enough.
    """
    machine = machines.choose_machine(device, "float32")
    loaded = run if isinstance(run, LoadedCheckpoint) else load_best(run, runs, machine.device)
    refuse_reward_model(loaded.run)
    slots = fitting_slots(slots, loaded.model.config, machine)
    chosen: list[DecoderChoice] = []
    decoder = choose_decoder(loaded.model.to(machine.device), machine, slots, dtype, chosen.append)
    engine = Engine(decoder, loaded.tokenizer)
    step, config = loaded.checkpoint.step, loaded.model.config
    return LoadedEngine(loaded.run, step, loaded.tokenizer, config, machine, engine, chosen[0])


def fitting_slots(wanted: int, config: ModelConfig, machine: Machine) -> int:
    """Fewer where their caches would take more than a quarter of the memory of the device; then texts wait."""
    per_slot = cache_bytes(config, itemsize=4)
    room = max(1, total_memory(machine.device) // 4 // per_slot)
    while wanted > room:
        wanted = (wanted + 1) // 2
    return wanted


def load_best(reference: str | None, runs: Path, device: str) -> LoadedCheckpoint:
    """The checkpoint that the reference names, else the best one; says so where that is not the latest."""
    run = open_run(reference, runs, default="best")
    loaded = run.load(device)
    latest, used = last_saved_step(run), loaded.checkpoint.step
    if run.selector == "best" and used < latest:
        notice(
            f"using step {used:,} of '{run.name}', its best on held-out data;"
            f" the latest is {run.reference}@latest, step {latest:,}"
        )
    return loaded
