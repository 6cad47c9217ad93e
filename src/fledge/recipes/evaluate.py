"""Measure the model of a run on a whole split."""

from dataclasses import dataclass
from pathlib import Path

from fledge.core import device as machines
from fledge.core.device import Machine
from fledge.core.distributed import SINGLE_PROCESS, World
from fledge.core.errors import UserError
from fledge.core.progress import progress
from fledge.datasets.cache import open_dataset_at
from fledge.datasets.shards import Dataset
from fledge.evaluation.metrics import SplitMetrics, evaluate_split
from fledge.runs.run_folder import LoadedCheckpoint, open_run
from fledge.settings.pipeline import validated
from fledge.tokenizers.base import byte_lengths, fingerprint


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Which model was measured, and how."""

    run: str
    step: int
    dtype: str


@dataclass(frozen=True, kw_only=True)
class EvaluateResult(SplitMetrics, Evaluated):
    pass


def evaluate(
    run: str | LoadedCheckpoint | None,
    split: str = "val",
    *,
    runs: Path = Path("runs"),
    data: str | None = None,
    device: str = "auto",
    world: World = SINGLE_PROCESS,
) -> EvaluateResult:
    """Evaluate on `split` of the run's dataset, or of the prepared dataset `data`. Several ranks share the work.

    run: a name, a loaded checkpoint, or None for the latest run.
    """
    loaded = load_checkpoint(run, runs)
    dataset = open_eval_dataset(loaded, data or validated(loaded.run.config()).data.path, world)
    machine = eval_machine(loaded, device, world)
    lengths = byte_lengths(loaded.tokenizer)
    metrics, _ = evaluate_split(
        loaded.model.to(machine.device),
        dataset.split(split),
        lengths,
        machine,
        progress=lambda batches: progress(batches, "evaluating"),
    )
    return EvaluateResult(run=loaded.run.name, step=loaded.checkpoint.step, dtype=machine.dtype, **vars(metrics))


def load_checkpoint(run: str | LoadedCheckpoint | None, runs: Path) -> LoadedCheckpoint:
    """What the reference names; without an @, the best checkpoint."""
    return run if isinstance(run, LoadedCheckpoint) else open_run(run, runs, default="best").load()


def eval_machine(loaded: LoadedCheckpoint, device: str, world: World) -> Machine:
    """With the dtype of the training run, where the hardware has it: the result is the one that training logged."""
    chosen = machines.choose_device(device).value
    wanted = validated(loaded.run.config()).train.dtype
    dtype = wanted if wanted == "auto" or machines.has_units(chosen, wanted) else "float32"
    return machines.choose_machine(chosen, dtype, world)


def open_eval_dataset(loaded: LoadedCheckpoint, path: str | None, world: World) -> Dataset:
    """The dataset at `path`; refused if it was not prepared with the tokenizer of the model."""
    name, tokenizer_file = loaded.run.name, loaded.run.tokenizer_file
    if path is None:
        raise UserError(
            f"'{name}' was not trained here, so it has no dataset of its own",
            f"give one that was prepared with --tokenizer {tokenizer_file}: --data DIR",
        )
    with world.main_process_first("text"):
        dataset = open_dataset_at(path, lambda: loaded.tokenizer)
    if fingerprint(dataset.tokenizer) != fingerprint(loaded.tokenizer):
        raise UserError(
            f"'{dataset.folder}' was prepared with another tokenizer than '{name}'",
            f"prepare it with --tokenizer {tokenizer_file}",
        )
    return dataset
