"""fledge plot: the curves of one run, or of several in the same picture."""

import argparse

from fledge.cli.output import report
from fledge.core.formatting import short_path
from fledge.runs.run_folder import open_run
from fledge.tracking.plots import draw


def run(args: argparse.Namespace) -> None:
    runs = [open_run(name, args.runs, verify=False).folder for name in args.references]
    written = draw(runs, args.out or runs[0] / "plots")
    text = "\n".join(short_path(path) for path in written)
    report({"pictures": [str(path) for path in written]}, as_json=args.json, text=text)
