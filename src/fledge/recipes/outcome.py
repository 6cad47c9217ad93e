"""What a training came to, and the words in which train and resume say so."""

from dataclasses import asdict, dataclass

from fledge.checkpoint import store
from fledge.checkpoint.run import Run
from fledge.recipes.screen import report


@dataclass(frozen=True)
class Outcome:
    run: str
    folder: str
    step: int
    val_loss: float | None  # the best there was


def outcome_of(run: Run, step: int) -> Outcome:
    best = store.best(run.checkpoints)
    return Outcome(run.name, str(run.folder), step, best.val_loss if best else None)


def tell(outcome: Outcome, *, as_json: bool) -> None:
    loss = "" if outcome.val_loss is None else f", best validation loss {outcome.val_loss:.4f}"
    name = outcome.run
    words = f"'{name}' is trained: step {outcome.step:,}{loss}\nnext: fledge generate {name} · fledge plot {name}"
    report(asdict(outcome), as_json=as_json, text=words)
