"""fledge tokenizer: make one from text, and see how it cuts."""

import argparse

from fledge.base.errors import UserError
from fledge.recipes.prepare import make_tokenizer
from fledge.recipes.screen import report
from fledge.text.sources import read_all
from fledge.tokens import tokenizer as tokenizers
from fledge.tokens.config import TokenizerConfig
from fledge.track.terminal import printable, shown


def run(args: argparse.Namespace) -> None:
    {"train": train, "show": show}[args.act](args)


def train(args: argparse.Namespace) -> None:
    if args.out.exists():
        raise UserError(f"'{args.out}' exists already", "choose another --out, or remove it first")
    config = TokenizerConfig(kind=args.kind, vocab_size=args.vocab_size, unknown=args.unknown)
    made = make_tokenizer(read_all(args.sources), config)
    tokenizers.save(made, args.out)
    text = f"{shown(args.out)}: {made.vocab_size:,} tokens\nnext: fledge tokenizer show {shown(args.out)} 'some text'"
    report({"file": str(args.out), "kind": made.kind, "vocab_size": made.vocab_size}, as_json=args.json, text=text)


def show(args: argparse.Namespace) -> None:
    loaded = tokenizers.load(args.file)
    ids = loaded.encode(args.text).tolist()
    pieces = [loaded.decode([i]) for i in ids]
    text = " ".join(f"{printable(piece)}·{i}" for piece, i in zip(pieces, ids, strict=True))
    report({"ids": ids, "tokens": pieces}, as_json=args.json, text=f"{text}\n{len(ids)} tokens")
