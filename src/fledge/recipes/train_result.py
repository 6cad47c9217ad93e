"""What a training came to, and the words in which train and resume say so."""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

from fledge.checkpoint import store
from fledge.cli.output import report
from fledge.core.errors import UserError
from fledge.runs import run_folder
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


def saved_result(name: str, runs: Path) -> TrainResult:
    """The result of a run that other processes have trained, from its checkpoints."""
    run = run_folder.open_run(name, runs)
    return train_result(run, max((saved.step for saved in store.complete_checkpoints(run.checkpoints)), default=0))


def refuse_ray_options(args: argparse.Namespace) -> None:
    for name in ("workers", "address"):
        if getattr(args, name) is not None and not args.launcher:
            raise UserError(f"--{name} is for --launcher ray", "add --launcher ray, or leave it out")


def print_result(outcome: TrainResult, *, as_json: bool) -> None:
    loss = "" if outcome.val_loss is None else f", best validation loss {outcome.val_loss:.4f}"
    name = outcome.run
    words = f"'{name}' is trained: step {outcome.step:,}{loss}\nnext: fledge generate {name} · fledge plot {name}"
    report(asdict(outcome), as_json=as_json, text=words)
