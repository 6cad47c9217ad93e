"""fledge corpora: list the named corpora, or show the beginning of one."""

import argparse
from typing import TYPE_CHECKING

from fledge.cli.arguments import Parser
from fledge.cli.output import report
from fledge.core.files import human_bytes
from fledge.core.formatting import printable

if TYPE_CHECKING:
    from fledge.text.corpora import Corpus

EXAMPLES = (
    "fledge corpora",
    "fledge corpora python",
)
FIELDS = ("name", "about", "origin", "size", "licence", "network")


def add_arguments(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", metavar="CORPUS", help="show the beginning of this corpus")


def run(args: argparse.Namespace) -> None:
    from fledge.recipes.corpora import list_corpora, preview_corpus

    if args.name:
        preview = preview_corpus(args.name)
        report(preview, as_json=args.json, text=printable(preview.beginning))
        return
    corpora = list_corpora()
    rows = [{field: getattr(corpus, field) for field in FIELDS} for corpus in corpora]
    report(rows, as_json=args.json, text="\n".join(map(describe, corpora)))


def describe(corpus: "Corpus") -> str:
    network = "needs the network" if corpus.network else "works offline"
    return f"{corpus.name:<21}{human_bytes(corpus.size):>8}  {corpus.licence:<18}  {network}\n{'':<21}{corpus.about}"
