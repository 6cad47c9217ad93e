"""Measure the model of a run on a whole split."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from fledge.core import device as machines
from fledge.core.device import Machine
from fledge.core.distributed import SINGLE_PROCESS, World
from fledge.core.errors import UserError, to_user_error
from fledge.core.progress import notice, progress
from fledge.datasets.cache import open_dataset_at
from fledge.datasets.shards import Dataset
from fledge.evaluation.compare import TextComparison, compare_texts
from fledge.evaluation.metrics import SplitMetrics, UnitSums, evaluate_split
from fledge.runs.evaluations import record_evaluation
from fledge.runs.run_folder import LoadedCheckpoint, open_run
from fledge.settings.pipeline import validated
from fledge.tokenizers.base import byte_lengths, fingerprint

FIGURES = (".png", ".svg", ".pdf")


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Which model was measured, and how."""

    run: str
    step: int
    dtype: str


@dataclass(frozen=True, kw_only=True)
class RunComparison(TextComparison, Evaluated):
    metrics: SplitMetrics  # of the other run


@dataclass(frozen=True, kw_only=True)
class EvaluateResult(SplitMetrics, Evaluated):
    comparison: RunComparison | None = None
    figure: Path | None = None


def evaluate(
    run: str | LoadedCheckpoint | None,
    split: str = "val",
    *,
    runs: Path = Path("runs"),
    data: str | None = None,
    compare: str | LoadedCheckpoint | None = None,
    figure: Path | None = None,
    device: str = "auto",
    world: World = SINGLE_PROCESS,
) -> EvaluateResult:
    """Evaluate on `split` of the run's dataset, or of the prepared dataset `data`. Several ranks share the work.

    run: a name, a loaded checkpoint, or None for the latest run. compare: another run, or checkpoint, on the same text.
    figure: a PNG file to draw loss by position and calibration into.
    """
    if figure is not None and figure.suffix.lower() not in FIGURES:
        raise UserError(f"'{figure}' is no picture that can be drawn", f"end its name in {', '.join(FIGURES)}")
    loaded = load_checkpoint(run, runs, device)
    other = None if compare is None else load_checkpoint(compare, runs)
    dataset = open_eval_dataset(loaded, data, world)
    same = other is None or fingerprint(other.tokenizer) == fingerprint(loaded.tokenizer)
    other_dataset = dataset if other is None or same else open_eval_dataset(other, None, world)
    about, metrics, sums = _measure(loaded, dataset, split, device, world)
    evaluated, comparison = {_label(about): metrics}, None
    if other is not None:
        theirs = _measure(other, other_dataset, split, device, world)
        names = _label(about), _label(theirs[0])
        found = compare_texts(sums, theirs[2], names, same_tokenizer=same)
        comparison = RunComparison(**vars(found), **vars(theirs[0]), metrics=theirs[1])
        evaluated |= {names[1]: theirs[1]} if same else {}
    if world.is_main:
        record_evaluation(loaded.run, "split", about.step, {**asdict(metrics), "data": data, "dtype": about.dtype})
    drawn = _draw(evaluated, figure) if figure is not None and world.is_main else None
    return EvaluateResult(**vars(about), **vars(metrics), comparison=comparison, figure=drawn)


def _measure(
    loaded: LoadedCheckpoint, dataset: Dataset, split: str, device: str, world: World
) -> tuple[Evaluated, SplitMetrics, UnitSums]:
    machine = eval_machine(loaded, device, world)
    about = Evaluated(run=loaded.run.name, step=loaded.checkpoint.step, dtype=machine.dtype)
    model, lengths = loaded.model.to(machine.device), byte_lengths(loaded.tokenizer)
    shown = f"evaluating {_label(about)}"
    return about, *evaluate_split(
        model, dataset.split(split), lengths, machine, progress=lambda batches: progress(batches, shown)
    )


def _draw(evaluated: Mapping[str, SplitMetrics], figure: Path) -> Path | None:
    from fledge.evaluation.figure import draw_evaluation  # matplotlib takes a second to import

    try:
        return draw_evaluation(evaluated, figure)
    except OSError as error:  # the numbers are worth more than the figure
        notice(f"warning: no figure: {to_user_error(error).message}")
        return None


def _label(about: Evaluated) -> str:
    return f"{about.run}@{about.step}"


def load_checkpoint(run: str | LoadedCheckpoint | None, runs: Path, device: str = "auto") -> LoadedCheckpoint:
    """What the reference names; without an @, the best checkpoint. A device that is not here is refused first."""
    machines.choose_device(device)
    return run if isinstance(run, LoadedCheckpoint) else open_run(run, runs, default="best").load()


def eval_machine(loaded: LoadedCheckpoint, device: str, world: World) -> Machine:
    """With the dtype of the training run, where the hardware has it: the result is the one that training logged."""
    chosen = machines.choose_device(device).value
    wanted = validated(loaded.run.config()).train.dtype
    dtype = wanted if wanted == "auto" or machines.has_units(chosen, wanted) else "float32"
    return machines.choose_machine(chosen, dtype, world)


def has_dataset(loaded: LoadedCheckpoint, data: str | None) -> bool:
    """False for an imported model, unless `data` names a dataset."""
    return (data or validated(loaded.run.config()).data.path) is not None


def open_eval_dataset(loaded: LoadedCheckpoint, data: str | None, world: World) -> Dataset:
    """The dataset at `data`, or the run's own; refused if it was not prepared with the tokenizer of the model."""
    name, tokenizer_file = loaded.run.name, loaded.run.tokenizer_file
    path = data or validated(loaded.run.config()).data.path
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
