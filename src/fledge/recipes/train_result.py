"""What a training came to, and the words in which train and resume say so."""

from dataclasses import asdict, dataclass

from fledge.checkpoint import store
from fledge.cli.output import report
from fledge.runs.run_folder import RunFolder


@dataclass(frozen=True)
class TrainResult:
    run: str
    folder: str
    step: int
    val_loss: float | None  # the best there was


def train_result(run: RunFolder, step: int) -> TrainResult:
    best = store.best_checkpoint(run.checkpoints)
    return TrainResult(run.name, str(run.folder), step, best.val_loss if best else None)


def print_result(outcome: TrainResult, *, as_json: bool) -> None:
    loss = "" if outcome.val_loss is None else f", best validation loss {outcome.val_loss:.4f}"
    name = outcome.run
    words = f"'{name}' is trained: step {outcome.step:,}{loss}\nnext: fledge generate {name} · fledge plot {name}"
    report(asdict(outcome), as_json=as_json, text=words)
