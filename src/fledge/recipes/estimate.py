"""Measure the model of a run on random batches of a split, with a standard error for each figure."""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from fledge.core.device import Machine, choose_machine
from fledge.core.distributed import SINGLE_PROCESS, World
from fledge.core.errors import UserError, out_of_memory
from fledge.core.progress import progress
from fledge.evaluation.random_batches import (
    Estimate,
    EstimatedMetrics,
    RandomBatches,
    estimate_as_smol_gpt,
    estimate_loss,
)
from fledge.recipes.evaluate import Evaluated, eval_machine, load_checkpoint, open_eval_dataset
from fledge.runs.evaluations import record_evaluation
from fledge.runs.run_folder import LoadedCheckpoint
from fledge.tokenizers.base import byte_lengths

BATCHES, BATCH_SIZE = 100, 32
DEFINITIONS = ("fledge", "smol-gpt")


@dataclass(frozen=True, kw_only=True)
class EstimateResult(EstimatedMetrics, Evaluated):
    """Random batches, and which model was measured."""


def estimate(
    run: str | LoadedCheckpoint | None,
    split: str = "val",
    *,
    definition: str = "fledge",
    batches: int = BATCHES,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    runs: Path = Path("runs"),
    data: str | None = None,
    device: str = "auto",
    world: World = SINGLE_PROCESS,
) -> EstimateResult:
    """Evaluate on `batches` random batches of `batch_size` windows each. Every rank computes all of them.

    definition: "fledge", or "smol-gpt" for the metrics that smol-GPT publishes, which are computed in float32.
    """
    check_options(definition, batches, batch_size, seed)
    loaded = load_checkpoint(run, runs, device)
    dataset = open_eval_dataset(loaded, data, world)
    machine = eval_machine(loaded, device, world)
    if definition == "smol-gpt":
        machine = choose_machine(machine.device, "float32", world)
    model = loaded.model.to(machine.device).eval()
    context, about = model.config.context, f"{loaded.run.name}@{loaded.checkpoint.step}"
    drawn = RandomBatches(dataset.split(split), context, batch_size, machine.device, seed)
    try:
        metrics = _measure(loaded, definition, drawn, batches, machine, f"evaluating {about}")
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise UserError(
            f"the memory does not suffice for batches of {batch_size:,} windows", "use smaller ones: --batch-size 8"
        ) from None
    result = EstimateResult(
        run=loaded.run.name,
        step=loaded.checkpoint.step,
        dtype=machine.dtype,
        definition=definition,
        split=split,
        batches=batches,
        batch_size=batch_size,
        seed=seed,
        context=context,
        metrics=metrics,
    )
    if world.is_main:
        record_evaluation(loaded.run, "estimate", result.step, {**asdict(result), "data": data})
    return result


def _measure(
    loaded: LoadedCheckpoint, definition: str, drawn: RandomBatches, count: int, machine: Machine, label: str
) -> dict[str, Estimate]:
    shown = partial(progress, label=label)
    if definition == "smol-gpt":
        return estimate_as_smol_gpt(loaded.model, drawn, count, machine, shown)
    return estimate_loss(loaded.model, drawn, count, byte_lengths(loaded.tokenizer), machine, shown)


def check_estimate(
    loaded: LoadedCheckpoint, split: str, *, seed: int, data: str | None, world: World = SINGLE_PROCESS
) -> None:
    """Refuse at once what `estimate` would refuse after the evaluation of the whole split."""
    check_options("fledge", BATCHES, BATCH_SIZE, seed)
    dataset = open_eval_dataset(loaded, data, world)
    RandomBatches(dataset.split(split), loaded.model.config.context, BATCH_SIZE, "cpu", seed)


def check_options(definition: str, batches: int, batch_size: int, seed: int) -> None:
    if definition not in DEFINITIONS:
        raise UserError(f"there are no metrics '{definition}'", f"use {' or '.join(DEFINITIONS)}")
    for option, value in (("--batches", batches), ("--batch-size", batch_size)):
        if value < 1:
            raise UserError(f"{option} cannot be {value}", "it must be a whole number from 1")
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed cannot be {seed}", "it must be a whole number from 0 to 2^63 - 1")
