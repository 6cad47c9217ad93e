"""fledge corpora: the texts that have a name."""

import argparse
from dataclasses import asdict

from fledge.recipes.screen import report
from fledge.text.corpora import CORPORA, find
from fledge.track.terminal import printable

LINES = 24


def run(args: argparse.Namespace) -> None:
    if args.name:
        first = next(iter(find(args.name).documents()))
        beginning = "\n".join(first.text.splitlines()[:LINES])
        report({"document": first.name, "beginning": beginning}, as_json=args.json, text=printable(beginning))
        return
    rows = [{k: v for k, v in asdict(c).items() if k != "documents"} for c in CORPORA.values()]
    lines = []
    for corpus in CORPORA.values():
        where = "needs the network" if corpus.network else "always there"
        lines += [f"{corpus.name:<14}{corpus.size:>8}  {corpus.licence:<14}  {where}", f"{'':<14}{corpus.about}"]
    report(rows, as_json=args.json, text="\n".join(lines))
