"""fledge corpora: the texts that have a name."""

import argparse

from fledge.cli.output import report
from fledge.core.formatting import printable
from fledge.text import sources
from fledge.text.corpora import CORPORA, find_corpus

LINES = 24
SHOWN = ("name", "about", "origin", "size", "licence", "network")


def run(args: argparse.Namespace) -> None:
    if args.name:
        first = next(sources.read_source(find_corpus(args.name).name))
        beginning = "\n".join(first.text.splitlines()[:LINES])
        report({"document": first.name, "beginning": beginning}, as_json=args.json, text=printable(beginning))
        return
    rows = [{key: getattr(c, key) for key in SHOWN} for c in CORPORA.values()]
    lines = []
    for corpus in CORPORA.values():
        where = "needs the network" if corpus.network else "always there"
        lines += [f"{corpus.name:<18}{corpus.size:>8}  {corpus.licence:<18}  {where}", f"{'':<18}{corpus.about}"]
    report(rows, as_json=args.json, text="\n".join(lines))
