"""fledge runs: what has been trained here."""

import argparse
import math
from typing import Any

from fledge.checkpoint import store
from fledge.cli.output import report
from fledge.core.errors import UserError
from fledge.core.progress import notice
from fledge.model.flops import parameters
from fledge.runs.run_folder import RunFolder, list_runs
from fledge.settings.pipeline import validated
from fledge.tracking.sinks.csv import read_metrics


def run(args: argparse.Namespace) -> None:
    rows = []
    for found in list_runs(args.runs):
        try:
            rows.append(describe(found))
        except UserError as error:  # one damaged run does not hide the others
            notice(f"warning: '{found.name}' cannot be read: {error.message}")
    report(rows, as_json=args.json, text=in_words(rows, str(args.runs)))


def describe(run: RunFolder) -> dict[str, Any]:
    good = store.complete_checkpoints(run.checkpoints)
    best = store.best_of(good)
    try:
        step = read_metrics(run.folder).last_step
    except UserError:
        step = 0
    return {
        "run": run.name,
        "parameters": parameters(run.model_config()),
        "step": step,
        "steps": validated(run.config()).train.steps,
        "best_val_loss": best.val_loss if best else None,
        "checkpoints": [c.step for c in good],
        "started": run.metadata_value("started"),
    }


def in_words(rows: list[dict[str, Any]], folder: str) -> str:
    if not rows:
        return f"no runs in '{folder}' yet; begin with: fledge demo"
    lines = [f"{'run':<28}{'parameters':>14}{'step':>16}{'best val loss':>16}  started"]
    for row in rows:
        loss = row["best_val_loss"]
        best = "-" if loss is None or math.isnan(loss) else f"{loss:.4f}"
        progress = f"{row['step']:,}/{row['steps']:,}"
        lines.append(f"{row['run']:<28}{row['parameters']:>14,}{progress:>16}{best:>16}  {row['started']}")
    return "\n".join(lines)
