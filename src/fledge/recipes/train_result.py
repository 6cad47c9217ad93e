"""How train and resume print their result."""

import argparse
from dataclasses import asdict

from fledge.cli.output import report
from fledge.core.errors import UserError
from fledge.training.result import TrainResult


def refuse_ray_options(args: argparse.Namespace) -> None:
    for name in ("workers", "address"):
        if getattr(args, name) is not None and not args.launcher:
            raise UserError(f"--{name} is for --launcher ray", "add --launcher ray, or leave it out")


def print_result(outcome: TrainResult, *, as_json: bool) -> None:
    loss = "" if outcome.val_loss is None else f", best validation loss {outcome.val_loss:.4f}"
    name = outcome.run
    words = f"'{name}' is trained: step {outcome.step:,}{loss}\nnext: fledge generate {name} · fledge plot {name}"
    report(asdict(outcome), as_json=as_json, text=words)
