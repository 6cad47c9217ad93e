"""fledge tokenizer: make one from text, see how it cuts, and judge how well it suits a text."""

import argparse
import sys
from importlib.util import find_spec
from itertools import cycle

from fledge.cli.output import report
from fledge.core.errors import UserError
from fledge.core.formatting import printable, short_path
from fledge.text.inputs import ReadOptions
from fledge.text.source_text import open_sources
from fledge.tokenizers import gpt2
from fledge.tokenizers.base import Tokenizer, load_tokenizer, save_tokenizer
from fledge.tokenizers.config import TokenizerConfig
from fledge.tokenizers.create import create_tokenizer, default_gpt2_folders
from fledge.tokenizers.report import compare_tokenizers, comparison_table

COLOURS = ("on blue", "on dark_green", "on dark_red", "on purple4", "on grey35")


def run(args: argparse.Namespace) -> None:
    {"train": train, "show": show, "report": report_on}[args.action](args)


def train(args: argparse.Namespace) -> None:
    if args.out.exists():
        raise UserError(f"'{args.out}' exists already", "choose another --out, or remove it first")
    made = make(args)
    save_tokenizer(made, args.out)
    file = short_path(args.out)
    text = f"{file}: {made.vocab_size:,} tokens\nnext: fledge tokenizer show {file} 'some text'"
    report({"file": str(args.out), "kind": made.kind, "vocab_size": made.vocab_size}, as_json=args.json, text=text)


def make(args: argparse.Namespace) -> Tokenizer:
    config = TokenizerConfig(kind=args.kind, vocab_size=args.vocab_size, pattern=args.pattern, unknown=args.unknown)
    if args.from_scratch and config.kind != "bpe":
        raise UserError(f"--from-scratch is for --kind bpe, not {config.kind}", "leave it out")
    if config.kind == "gpt2" and args.sources:
        raise UserError("GPT-2's encoding is made already: no text changes it", "leave the sources out")
    text = open_sources(args.sources, ReadOptions(args.field)) if args.sources else None
    return create_tokenizer(config, text, [args.gpt2] if args.gpt2 else [], from_scratch=args.from_scratch)


def show(args: argparse.Namespace) -> None:
    loaded = load_tokenizer(args.file)
    ids = loaded.encode(args.text).tolist()
    chunks = [loaded.id_to_bytes(i) for i in ids]
    said = [loaded.decode([i]) for i in ids]
    if sys.stdout.isatty() and not args.json and find_spec("rich"):
        print_coloured(chunks)
    text = " ".join(f"{readable(chunk)}·{i}" for chunk, i in zip(chunks, ids, strict=True))
    report({"ids": ids, "tokens": said}, as_json=args.json, text=f"{text}\n{len(ids)} tokens")


def print_coloured(chunks: list[bytes]) -> None:
    """The text as it is, each token on its own ground."""
    from rich.console import Console
    from rich.text import Text

    parts = (
        Text(readable(chunk).replace("\n", "⏎\n"), style=f"white {colour}")
        for chunk, colour in zip(chunks, cycle(COLOURS), strict=False)
    )
    Console().print(Text("").join(parts), soft_wrap=True)


def readable(chunk: bytes) -> str:
    """As text; a token that holds half a character as its bytes."""
    try:
        return printable(chunk.decode())
    except UnicodeDecodeError:
        return f"<{chunk.hex(' ')}>"


def report_on(args: argparse.Namespace) -> None:
    loaded = load_tokenizer(args.file)
    others: dict[str, Tokenizer] = {}
    missing = None
    try:
        others["GPT-2"] = gpt2.load_gpt2([*([args.gpt2] if args.gpt2 else []), *default_gpt2_folders()])
    except UserError as error:
        if args.gpt2:
            raise
        missing = f"GPT-2 is not beside it: {error.message}; {error.hint}"
    reading = open_sources(args.sources, ReadOptions(args.field))
    found = compare_tokenizers({short_path(args.file): loaded, **others}, (chunk.text for chunk in reading.chunks()))
    report({"tokenizers": found, "note": missing}, as_json=args.json, text=comparison_table(found, missing))
