"""fledge tokenizer: train a tokenizer, show how it splits a text, compare it with GPT-2's."""

import argparse
from pathlib import Path

from fledge.cli.arguments import Parser, add_common_arguments

EXAMPLES = (
    "fledge tokenizer train book.txt --out book.json",
    "fledge tokenizer show book.json 'Once upon a time'",
    "fledge tokenizer report book.json other-book.txt",
)


def add_arguments(parser: Parser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="train|show|report")
    train = actions.add_parser("train", help="train a tokenizer on text")
    train.add_argument("sources", nargs="*", metavar="SOURCE", help="the text; none for gpt2, which is already trained")
    kinds = "byte-pair encoding, single characters, or OpenAI's GPT-2 tokenizer (default: bpe)"
    train.add_argument("--kind", choices=["bpe", "char", "gpt2"], default="bpe", help=kinds)
    train.add_argument("--vocab-size", type=int, metavar="N", help="number of tokens")
    patterns = "bpe: split text into words as GPT-2 or GPT-4 does (default: gpt2)"
    train.add_argument("--pattern", choices=["gpt2", "gpt4"], default="gpt2", help=patterns)
    plain = "bpe: train with the readable Python implementation; the result is the same"
    train.add_argument("--from-scratch", action="store_true", help=plain)
    unknown = "char: refuse characters outside the vocabulary, or map them to '�' (default: refuse)"
    train.add_argument("--unknown", choices=["refuse", "map"], default="refuse", help=unknown)
    train.add_argument("--out", required=True, type=Path, metavar="FILE", help="the tokenizer.json to write")
    train.show_examples("fledge tokenizer train book.txt --out book.json")
    show = actions.add_parser("show", help="show how a text is split into tokens")
    show.add_argument("file", type=Path, metavar="FILE", help="a tokenizer.json")
    show.add_argument("text", metavar="TEXT", help="the text to split")
    show.show_examples("fledge tokenizer show book.json 'Once upon a time'")
    report = actions.add_parser("report", help="measure how well a tokenizer suits a text, next to GPT-2's")
    report.add_argument("file", type=Path, metavar="FILE", help="a tokenizer.json")
    report.add_argument("sources", nargs="+", metavar="SOURCE", help="the text to measure on")
    report.show_examples("fledge tokenizer report book.json other-book.txt")
    for each in (train, report):
        each.add_argument("--gpt2", type=Path, metavar="DIR", help="folder of GPT-2's vocab.bpe and encoder.json")
        each.add_argument("--field", default="text", metavar="NAME", help="jsonl, parquet: field of the text (text)")
    for each in (train, show, report):
        add_common_arguments(each, subcommand=True)


def run(args: argparse.Namespace) -> None:
    from fledge.recipes import tokenizer

    tokenizer.run(args)
