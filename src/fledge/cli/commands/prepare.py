"""fledge prepare: text → a dataset of tokens."""

import argparse

from fledge.cli.arguments import Parser, add_engine_arguments, add_settings_argument, positive_int

EXAMPLES = (
    "fledge prepare my-notes/ --out data/notes",
    "fledge prepare 'logs/*.jsonl.gz' --data.field body --out data/logs",
    "fledge prepare wikipedia-en:0.1 book.txt --data.dedup true --out s3://b/mixed",
    "fledge train demo --data.path data/notes",
)
TAKES_SETTINGS = True


def add_arguments(parser: Parser) -> None:
    source = "a file, folder, glob, named corpus, https://, hf://datasets/… or s3://; SOURCE:0.3 takes a share of it"
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help=source)
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write the dataset: a folder, or s3://…")
    parser.add_argument("--tokenizer", metavar="KIND|FILE", help="bpe, char, gpt2 or a tokenizer.json (default: bpe)")
    workers = "number of processes (default: one per core, if the text is large)"
    parser.add_argument("--workers", type=positive_int, metavar="N", help=workers)
    add_engine_arguments(parser, "local")
    add_settings_argument(parser, "a setting of [data] or [tokenizer]: see 'fledge train demo --print-config'")


def run(args: argparse.Namespace) -> None:
    from fledge.recipes import prepare

    prepare.run(args)
