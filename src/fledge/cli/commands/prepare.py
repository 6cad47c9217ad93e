"""fledge prepare: tokenize text into a dataset."""

import argparse
import shlex
from typing import TYPE_CHECKING

from fledge.cli.arguments import Parser, add_engine_arguments, add_settings_argument, positive_int
from fledge.cli.output import report
from fledge.core.config import read_overrides
from fledge.core.files import human_bytes
from fledge.core.formatting import counted, fit_cells, printable, short_count, shorten
from fledge.core.progress import notice

if TYPE_CHECKING:
    from fledge.datasets.preview import DocumentPreview, Preview
    from fledge.recipes.prepare import PrepareResult

EXAMPLES = (
    "fledge prepare my-notes/ --out data/notes",
    "fledge prepare 'logs/*.jsonl.gz' --data.field body --out data/logs",
    "fledge prepare wikipedia-en:0.1 book.txt --data.dedup true --out s3://b/mixed",
    "fledge train data/notes",
)
TAKES_SETTINGS = True
NAME_CELLS, TOKEN_CELLS = 28, 68  # of a terminal of 100
HELD_OUT = {"document": "whole documents", "tail": "the end of each document"}
PURPOSE = {"val": "validation", "test": "the final test"}
ODD_TEXT = {
    "empty": ("empty document, left out", "empty documents, left out"),
    "replaced": ("invalid byte, now '�'", "invalid bytes, now '�'"),
    "nul": ("NUL character, kept", "NUL characters, kept"),
    "surrogates": ("lone surrogate, now '�'", "lone surrogates, now '�'"),
}


def add_arguments(parser: Parser) -> None:
    source = "file, folder, glob, named corpus, https://, hf://datasets/…, s3://; SOURCE:0.3 samples 30 %% of it"
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help=source)
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write the dataset: a folder, or s3://…")
    parser.add_argument(
        "--tokenizer", metavar="KIND|FILE", help="bpe, char, gpt2, p50k or a tokenizer.json (default: bpe)"
    )
    workers = "number of processes (default: one per core, if the text is large)"
    parser.add_argument("--workers", type=positive_int, metavar="N", help=workers)
    add_engine_arguments(parser, "local")
    add_settings_argument(parser, "a setting of [data] or [tokenizer]")


def run(args: argparse.Namespace) -> None:
    from fledge.recipes.prepare import prepare

    result = prepare(
        args.sources,
        args.out,
        read_overrides(args.overrides),
        tokenizer=args.tokenizer,
        workers=args.workers,
        engine=args.engine,
        address=args.address,
        on_preview=print_preview,
    )
    if not result.built:
        notice(f"'{args.out}' is already prepared: nothing to do")
    report(result, as_json=args.json, text=describe_result(result))


def print_preview(preview: "Preview") -> None:
    rule = preview.split_rule
    held_out = [f"{100 * (rule.val + rule.test):.3g} %, {HELD_OUT[rule.by]}"] if rule.val or rule.test else []
    held_out += [f"for {PURPOSE[split]} {', '.join(own)}" for split, own in preview.held_out.items()]
    size = human_bytes(preview.source_bytes)
    notice(f"{preview.files.line(f', {size}')}; held out: {'; '.join(held_out) or 'nothing'}")
    for line in preview.files.advice():
        notice(line)
    for document in preview.documents:
        name = shorten(printable(document.name)[::-1], NAME_CELLS)[::-1]  # of a long path the end says more
        notice(f"  {fit_cells(name, NAME_CELLS)}  {describe_tokens(document)}")
    notice(
        f"about {short_count(preview.tokens)} tokens, {human_bytes(preview.dataset_bytes)} on disk,"
        f" {rough_time(preview.seconds)} with {counted(preview.workers, 'worker')}"
    )
    if preview.finished_parts:
        notice(f"{preview.finished_parts} of {counted(preview.parts, 'part')} are finished already")


def describe_tokens(document: "DocumentPreview") -> str:
    """The tokens with their ids; several that share a character together: 🦆·12+7+9."""
    words: list[str] = []
    content, ids = b"", list[str]()
    for i, part in document.tokens:
        content, ids = content + part, [*ids, str(i)]
        try:
            text = content.decode()
        except UnicodeDecodeError:
            continue
        words.append(f"{printable(text)}·{'+'.join(ids)}")
        content, ids = b"", []
    words += ["…"] * (not document.complete or bool(ids))
    return shorten(" ".join(words).replace("\n", "⏎").replace("\t", "⇥"), TOKEN_CELLS)


def describe_result(result: "PrepareResult") -> str:
    from fledge.datasets.description import describe_mixture, mixture_hint

    lines = [f"{result.folder}: a vocabulary of {counted(result.vocab_size, 'token')}"]
    for name, split in result.splits.items():
        if split.tokens:
            number, unit = counted(split.documents, "document").split()
            size = human_bytes(split.bytes)
            lines.append(f"  {name:<6}{split.tokens:>14,} tokens  {number:>10} {unit:<9}  {size:>9}")
    lines.append(f"  {result.held_out}")
    if result.mixture:
        lines += [f"  {line}" for line in (describe_mixture(result.mixture), mixture_hint(result.mixture)) if line]
    lines.append(f"  {result.files.line()}")
    lines += [f"  {counted(count, 'document')} left out: {reason}" for reason, count in result.dropped.items()]
    lines += [f"  {counted(result.read[name], *words)}" for name, words in ODD_TEXT.items() if result.read[name]]
    command = f"fledge train {shlex.quote(result.folder)}"
    return "\n".join([*lines, f"done in {rough_time(result.seconds)}; next: {command}"])


def rough_time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
