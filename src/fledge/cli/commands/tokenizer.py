"""fledge tokenizer: train a tokenizer, show how it splits a text, compare it with GPT-2's."""

import argparse
import sys
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path

from fledge.cli.arguments import Parser, add_common_arguments
from fledge.cli.output import report, token_text
from fledge.core.formatting import short_path

EXAMPLES = (
    "fledge tokenizer train book.txt --out book.json",
    "fledge tokenizer show book.json 'Once upon a time'",
    "fledge tokenizer report book.json other-book.txt",
)
COLORS = ("on blue", "on dark_green", "on dark_red", "on purple4", "on grey35")


def add_arguments(parser: Parser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="train|show|report")
    train = actions.add_parser("train", help="train a tokenizer on text")
    train.add_argument("sources", nargs="*", metavar="SOURCE", help="the text; none for gpt2, which is already trained")
    kinds = "byte-pair encoding, single characters, or OpenAI's: GPT-2's, p50k_base (default: bpe)"
    train.add_argument("--kind", choices=["bpe", "char", "gpt2", "p50k"], default="bpe", help=kinds)
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
    compare = actions.add_parser("report", help="measure how well a tokenizer compresses a text, compared with GPT-2's")
    compare.add_argument("file", type=Path, metavar="FILE", help="a tokenizer.json")
    compare.add_argument("sources", nargs="+", metavar="SOURCE", help="the text to measure on")
    compare.show_examples("fledge tokenizer report book.json other-book.txt")
    for each in (train, compare):
        each.add_argument("--gpt2", type=Path, metavar="DIR", help="folder of GPT-2's vocab.bpe and encoder.json")
        each.add_argument("--field", default="text", metavar="NAME", help="jsonl, parquet, csv: the text field (text)")
    for each in (train, show, compare):
        add_common_arguments(each, subcommand=True)


def run(args: argparse.Namespace) -> None:
    {"train": run_train, "show": run_show, "report": run_report}[args.action](args)


def run_train(args: argparse.Namespace) -> None:
    from fledge.recipes.tokenizer import train_tokenizer
    from fledge.tokenizers.config import TokenizerConfig

    config = TokenizerConfig(kind=args.kind, vocab_size=args.vocab_size, pattern=args.pattern, unknown=args.unknown)
    trained = train_tokenizer(
        args.sources, args.out, config, field=args.field, gpt2_folder=args.gpt2, from_scratch=args.from_scratch
    )
    file = short_path(args.out)
    text = f"{file}: {trained.vocab_size:,} tokens\nnext: fledge tokenizer show {file} 'some text'"
    report(trained, as_json=args.json, text=text)


def run_show(args: argparse.Namespace) -> None:
    from fledge.recipes.tokenizer import tokenize

    split = tokenize(args.file, args.text)
    if sys.stdout.isatty() and not args.json and find_spec("rich"):
        print_colored(split.token_bytes)
    words = " ".join(f"{token_text(content)}·{i}" for content, i in zip(split.token_bytes, split.ids, strict=True))
    value = {"ids": split.ids, "tokens": split.tokens}
    report(value, as_json=args.json, text=f"{words}\n{len(split.ids)} tokens")


def run_report(args: argparse.Namespace) -> None:
    from fledge.recipes.tokenizer import compare_with_gpt2
    from fledge.tokenizers.report import comparison_table

    compared = compare_with_gpt2(args.file, args.sources, field=args.field, gpt2_folder=args.gpt2)
    report(compared, as_json=args.json, text=comparison_table(compared.tokenizers, compared.note))


def print_colored(tokens: list[bytes]) -> None:
    """Print the text with a background color for each token."""
    from rich.console import Console
    from rich.text import Text

    parts = (
        Text(token_text(content).replace("\n", "⏎\n"), style=f"white {color}")
        for content, color in zip(tokens, cycle(COLORS), strict=False)
    )
    Console().print(Text("").join(parts), soft_wrap=True)
