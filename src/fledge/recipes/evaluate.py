"""Measure the loss of a run on a whole split."""

from dataclasses import dataclass
from pathlib import Path

from fledge.core import device as machines
from fledge.core.distributed import SINGLE_PROCESS, World
from fledge.core.errors import UserError
from fledge.core.progress import progress
from fledge.datasets.cache import open_dataset_at
from fledge.datasets.shards import Dataset
from fledge.evaluation.loss import LossResult, evaluate_loss
from fledge.runs.run_folder import LoadedCheckpoint, open_run
from fledge.settings.pipeline import validated
from fledge.tokenizers.base import byte_lengths, fingerprint


@dataclass(frozen=True)
class EvaluateResult:
    run: str
    step: int
    loss: LossResult
    dtype: str


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
    In the dtype of the training run, where the hardware has it: the result is then the one that training logged.
    """
    chosen = machines.choose_device(device).value
    loaded = run if isinstance(run, LoadedCheckpoint) else open_run(run, runs, default="best").load()
    settings = validated(loaded.run.config())
    dataset = open_eval_dataset(loaded, data or settings.data.path, world)
    wanted = settings.train.dtype
    dtype = wanted if wanted == "auto" or machines.has_units(chosen, wanted) else "float32"
    machine = machines.choose_machine(chosen, dtype, world)
    loss = evaluate_loss(
        loaded.model.to(machine.device),
        dataset.split(split),
        byte_lengths(loaded.tokenizer),
        machine,
        progress=lambda batches: progress(batches, "evaluating"),
    )
    return EvaluateResult(loaded.run.name, loaded.checkpoint.step, loss, machine.dtype)


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
