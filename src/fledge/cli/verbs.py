"""Every verb: what it takes, said in plain words. Parsing and doing are elsewhere (cli/main.py, recipes/)."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from fledge.core.errors import UserError


class Parser(argparse.ArgumentParser):
    """Parts of a verb are parsed by this class too: no abbreviations, and every refusal in our two lines."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(message, "add --help to see what this verb takes")


@dataclass(frozen=True)
class Verb:
    help: str
    arguments: Callable[[Parser], None]
    examples: tuple[str, ...]
    settings: bool = False  # takes --section.key value
    together: bool = False  # can be done by many processes that torchrun has started
    recipe: str = ""  # the file in recipes/, where it is not the verb's own name


def common_arguments(parser: Parser, *, part: bool = False) -> None:
    """What every verb takes. A part of a verb takes it too, and says nothing where it is not given there."""
    runs, off = (argparse.SUPPRESS, argparse.SUPPRESS) if part else (Path("runs"), False)
    parser.add_argument("--runs", type=Path, default=runs, metavar="DIR", help="where runs live (default: ./runs)")
    parser.add_argument("--json", action="store_true", default=off, help="print one JSON document instead of words")
    parser.add_argument("--debug", action="store_true", default=off, help="show the traceback of an error")


def _settings_argument(parser: Parser, which: str) -> None:
    # Listed for the reader; the words themselves are taken by parse_known_args.
    parser.add_argument("--section.key", dest="_", metavar="VALUE", help=which)


def _demo(parser: Parser) -> None:
    parser.add_argument("--minutes", type=float, default=3.0, help="how long the whole demo may take (default: 3)")


def _nothing(_: Parser) -> None: ...


def _corpora(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="show the beginning of this one")


def _tokenizer(parser: Parser) -> None:
    acts = parser.add_subparsers(dest="act", required=True, metavar="train|show|report")
    train = acts.add_parser("train", help="make a tokenizer from text")
    train.add_argument("sources", nargs="*", metavar="SOURCE", help="the text; none for gpt2, which is made already")
    kinds = "frequent pieces (bpe), characters, or OpenAI's GPT-2 encoding"
    train.add_argument("--kind", choices=["bpe", "char", "gpt2"], default="bpe", help=kinds)
    train.add_argument("--vocab-size", type=int, metavar="N", help="how many tokens")
    patterns = "bpe: cut text into words as GPT-2 or GPT-4 does"
    train.add_argument("--pattern", choices=["gpt2", "gpt4"], default="gpt2", help=patterns)
    plainly = "bpe: in plain Python, to see how it is done; the file is the same"
    train.add_argument("--from-scratch", action="store_true", help=plainly)
    train.add_argument(
        "--unknown", choices=["refuse", "map"], default="refuse", help="char: characters outside the vocabulary"
    )
    train.add_argument("--out", required=True, type=Path, metavar="FILE")
    show = acts.add_parser("show", help="show how a text is cut")
    show.add_argument("file", type=Path, metavar="FILE")
    show.add_argument("text", metavar="TEXT")
    report = acts.add_parser("report", help="how well a tokenizer suits a text, beside GPT-2's")
    report.add_argument("file", type=Path, metavar="FILE")
    report.add_argument("sources", nargs="+", metavar="SOURCE")
    for sub in (train, report):
        sub.add_argument("--gpt2", type=Path, metavar="DIR", help="where GPT-2's vocab.bpe and encoder.json are")
        sub.add_argument("--field", default="text", metavar="NAME", help="jsonl, parquet: what holds the text (text)")
    examples = {
        train: "train book.txt --out book.json",
        show: "show book.json 'Once upon a time'",
        report: "report book.json other-book.txt",
    }
    for sub, example in examples.items():
        sub.epilog = f"example:\n  fledge tokenizer {example}"
        sub.formatter_class = argparse.RawDescriptionHelpFormatter
        common_arguments(sub, part=True)


def _count(word: str) -> int:
    if not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number from 1 up")
    return int(word)


def _prepare(parser: Parser) -> None:
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="a file, folder, glob, named corpus, https://, hf://datasets/… or s3://; SOURCE:0.3 takes a share",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="where the dataset goes: a folder, or s3://…")
    kinds = "bpe, char or gpt2; or a tokenizer.json (default: bpe)"
    parser.add_argument("--tokenizer", metavar="KIND|FILE", help=kinds)
    parser.add_argument(
        "--workers", type=_count, metavar="N", help="processes (default: one a core, if it is worth it)"
    )
    _engine_arguments(parser, "local")
    _settings_argument(parser, "of [data] or [tokenizer]: see 'fledge train demo --print-config'")


def _presets(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="show this one whole, and what it costs")
    parser.add_argument("--markdown", action="store_true", help="the table as Markdown, as in docs/presets.md")


def _plan(parser: Parser) -> None:
    parser.add_argument("preset", nargs="?", metavar="PRESET|FILE.toml", help="what is to be trained")
    parser.add_argument("--budget", metavar="TIME", help="choose size, batch and steps for 90s, 30m, 1h30m …")
    parser.add_argument("--price", type=float, metavar="NUMBER", help="what an hour of this machine costs")
    parser.add_argument("--against", metavar="RUN", help="look back: what a plan says of a run, and what came of it")
    _settings_argument(parser, "any setting, e.g. --model.size 30M")


def _train(parser: Parser) -> None:
    what = "what to train: see 'fledge presets'; with --init it may be left out"
    parser.add_argument("preset", nargs="?", metavar="PRESET|FILE.toml", help=what)
    parser.add_argument("--init", metavar="RUN", help="go on from the model of this run, with its tokenizer")
    parser.add_argument("--run", metavar="NAME", help="name of the run (default: the preset's, numbered)")
    parser.add_argument("--print-config", action="store_true", help="print every setting with its meaning, and stop")
    profile = "record what a few steps spend their time on, in RUN/profile/"
    parser.add_argument("--profile", action="store_true", help=profile)
    _launcher_arguments(parser)
    _settings_argument(parser, "any setting, e.g. --train.steps 500")


def _sweep(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE.toml", help="what is to be tried: see below")
    parser.add_argument("--trials", type=_count, metavar="N", help="how many trainings (default: the file's, or 20)")
    parser.add_argument("--run", metavar="NAME", help="name of the sweep (default: the file's); its runs lie in NAME/")
    many = "trainings at a time (default: 1, and then the same file gives the same table)"
    parser.add_argument("--workers", type=_count, default=1, metavar="N", help=many)
    _engine_arguments(parser, "processes")


def _engine_arguments(parser: Parser, own: str) -> None:
    parser.add_argument("--engine", choices=[own, "ray"], default=own, help="this machine, or a Ray cluster")
    parser.add_argument("--address", metavar="HOST:PORT", help="the cluster's (default: one is started here meanwhile)")


SWEEP_FILE = (
    "fledge sweep rates.toml",
    "fledge sweep rates.toml --trials 40 --workers 4       killed or finished: the same command goes on",
    "fledge plot rates/trial-0007 rates/trial-0012",
    "",
    "rates.toml:",
    "  [sweep]",
    '  preset = "demo"              # or a FILE.toml',
    "  trials = 20",
    "  seed = 1",
    '  metric = "val_loss"          # or "val_bits_per_byte", where tokenizers differ',
    "  [space]",
    '  "optim.lr" = {low = 1e-4, high = 1e-2, log = true}',
    '  "model.n_layer" = [2, 4, 6]',
    "  [train]                      # and any other settings, the same for all",
    "  steps = 200",
)


def _launcher_arguments(parser: Parser) -> None:
    many = "let Ray start the processes, and start them again when one dies; torchrun needs no such word"
    parser.add_argument("--launcher", choices=["ray"], help=many)
    count = "processes (default: one a GPU, or one a machine)"
    parser.add_argument("--workers", type=_count, metavar="N", help=f"--launcher ray: {count}")
    where = "the cluster's (default: one is started here meanwhile)"
    parser.add_argument("--address", metavar="HOST:PORT", help=f"--launcher ray: {where}")


def _run_argument(parser: Parser, many: bool = False) -> None:
    what = "name or path of a run; NAME@best, NAME@latest, NAME@1000"
    parser.add_argument("runs_given" if many else "run", nargs="+" if many else None, metavar="RUN", help=what)


def _resume(parser: Parser) -> None:
    _run_argument(parser)
    changed = "go on with settings that differ from the checkpoint's; without it they are listed and refused"
    parser.add_argument("--allow-changes", action="store_true", help=changed)
    proof = "prove that loading and saving again gives the same bits, and stop"
    parser.add_argument("--verify", action="store_true", help=proof)
    _launcher_arguments(parser)
    _settings_argument(parser, "another setting, such as --train.steps 4000; see --allow-changes")


def _data(parser: Parser) -> None:
    acts = parser.add_subparsers(dest="act", required=True, metavar="show")
    show = acts.add_parser("show", help="the text that a step learned from")
    _run_argument(show)
    which = show.add_mutually_exclusive_group(required=True)
    which.add_argument("--step", type=int, metavar="N", help="a step of the run, from 1")
    which.add_argument("--samples", metavar="A-B", help="samples by their numbers, as events.jsonl has them")
    show.add_argument("--ranks", type=int, default=1, metavar="N", help="as if by so many processes (default: 1)")
    show.add_argument("--rank", type=int, metavar="R", help="only what this process had")
    show.add_argument("--micro-batch", type=int, metavar="K", help="only what was computed together, from 0")
    show.epilog = "example:\n  fledge data show hamlet --step 1234 --ranks 4 --rank 2"
    show.formatter_class = argparse.RawDescriptionHelpFormatter
    common_arguments(show, part=True)


def _plot(parser: Parser) -> None:
    _run_argument(parser, many=True)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where pictures go (default: plots/ in the first run)")


def _generate(parser: Parser) -> None:
    _run_argument(parser)
    parser.add_argument("--prompt", default=None, help="how the text begins ('-' reads it from stdin)")
    parser.add_argument("--tokens", type=int, default=300, metavar="N", help="how many tokens to add (default: 300)")
    parser.add_argument("--temperature", type=float, default=0.8, metavar="T", help="0 greedy, 1 the model's own (0.8)")
    parser.add_argument("--top-k", type=int, metavar="K", help="choose among the K best only")
    parser.add_argument("--top-p", type=float, metavar="P", help="choose among the best that reach probability P")
    parser.add_argument("--greedy", action="store_true", help="always the best token: the same as --temperature 0")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another text (default: 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")


def _eval(parser: Parser) -> None:
    _run_argument(parser)
    parser.add_argument("--split", default="val", help="train, val or test (default: val)")
    parser.add_argument("--data", metavar="DIR", help="another prepared dataset, also s3://… (same tokenizer)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")


def _export(parser: Parser) -> None:
    _run_argument(parser)
    parser.add_argument("--to", required=True, choices=["hf", "gguf"], help="Hugging Face's files, or llama.cpp's")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder for the files")
    parser.add_argument("--dtype", choices=["f32", "f16", "q8_0"], help="gguf: how exact its numbers are (f16)")


def _import(parser: Parser) -> None:
    what = "a Hugging Face folder, a name on the Hub, nanoGPT's ckpt.pt, or a .gguf"
    parser.add_argument("source", metavar="SOURCE", help=what)
    parser.add_argument("--out", metavar="RUN", help="name or path of the new run (default: the source's name)")
    parser.add_argument("--tokenizer", metavar="FILE", help="its tokenizer.json, where the source has none; or gpt2")
    parser.add_argument("--characters", metavar="TEXT", help="the text whose characters are its vocabulary (nanoGPT)")


def _eject(parser: Parser) -> None:
    parser.add_argument("model", metavar="PRESET|RUN", help="a run comes before a preset or FILE.toml of its name")
    parser.add_argument("--out", required=True, metavar="FILE", help="a new file: gpt.py")
    _settings_argument(parser, "of a preset: any setting, e.g. --model.n_layer 6")


VERBS = {
    "demo": Verb("the whole journey in about three minutes", _demo, ("fledge demo", "fledge demo --minutes 10")),
    "doctor": Verb("what this machine is, what fledge will use, and why", _nothing, ("fledge doctor",)),
    "corpora": Verb("the texts that have a name", _corpora, ("fledge corpora", "fledge corpora python")),
    "tokenizer": Verb(
        "make and inspect tokenizers",
        _tokenizer,
        (
            "fledge tokenizer train book.txt --out book.json",
            "fledge tokenizer show book.json 'Once upon a time'",
            "fledge tokenizer report book.json other-book.txt",
        ),
    ),
    "prepare": Verb(
        "text → a dataset of tokens",
        _prepare,
        (
            "fledge prepare my-notes/ --out data/notes",
            "fledge prepare 'logs/*.jsonl.gz' --data.field body --out data/logs",
            "fledge prepare wikipedia-en:0.1 book.txt --data.dedup true --out s3://b/mixed",
            "fledge train demo --data.path data/notes",
        ),
        settings=True,
    ),
    "presets": Verb("the known GPTs, with their sizes", _presets, ("fledge presets", "fledge presets demo")),
    "plan": Verb(
        "what a training will take, measured in seconds",
        _plan,
        (
            "fledge plan demo",
            "fledge plan modern --model.size 125M --price 2.5",
            "fledge plan demo --data.corpus my-notes/ --budget 30m",
            "fledge plan --against hamlet",
        ),
        settings=True,
    ),
    "train": Verb(
        "train a model",
        _train,
        (
            "fledge train demo",
            "fledge train nanogpt-shakespeare-cpu --data.corpus input.txt --run hamlet",
            "fledge train demo --model.n_layer 8 --optim.lr 2e-3",
            "fledge train modern --model.size 30M",
            "fledge train --init gpt2 --data.corpus my-notes/",
            "fledge train demo --print-config > mine.toml     every setting, explained",
            "torchrun --nproc-per-node 4 -m -- fledge train modern",
            "fledge train modern --launcher ray --workers 4 --run hamlet",
        ),
        settings=True,
        together=True,
    ),
    "resume": Verb(
        "go on exactly where a run stopped",
        _resume,
        (
            "fledge resume hamlet",
            "fledge resume hamlet --verify",
            "fledge resume hamlet --train.steps 4000 --allow-changes",
            "fledge resume hamlet --launcher ray --workers 2",
        ),
        settings=True,
        together=True,
    ),
    "sweep": Verb("many trainings that look for the best settings", _sweep, SWEEP_FILE),
    "data": Verb(
        "which text did a step learn from?",
        _data,
        ("fledge data show hamlet --step 1234", "fledge data show hamlet --step 1234 --ranks 4 --rank 2"),
    ),
    "runs": Verb("list the runs", _nothing, ("fledge runs",)),
    "plot": Verb(
        "draw loss, learning rate, gradient, speed", _plot, ("fledge plot hamlet", "fledge plot a b --out cmp/")
    ),
    "generate": Verb(
        "let a model write, as it comes",
        _generate,
        ("fledge generate hamlet --prompt 'To be'", "fledge generate hamlet@1000 --greedy --tokens 100"),
    ),
    "eval": Verb(
        "judge a model on a whole split",
        _eval,
        ("fledge eval hamlet", "fledge eval hamlet@latest --json"),
        together=True,
        recipe="evaluate",
    ),
    "export": Verb(
        "a model for other programs: transformers, llama.cpp",
        _export,
        (
            "fledge export hamlet --to hf --out hamlet-hf",
            "fledge export hamlet@best --to gguf --dtype q8_0 --out hamlet",
        ),
    ),
    "eject": Verb(
        "a model as one readable file that needs no fledge",
        _eject,
        (
            "fledge eject hamlet --out gpt.py",
            "fledge eject gpt2 --model.n_layer 6 --out half.py",
        ),
        settings=True,
    ),
    "import": Verb(
        "other programs' models → a run",
        _import,
        (
            "fledge import openai-community/gpt2 --out gpt2",
            "fledge import out-shakespeare-char/ckpt.pt --characters input.txt --out nano",
        ),
        recipe="import_run",
    ),
}

JOURNEY = {
    "begin": ["demo", "doctor"],
    "text": ["corpora", "tokenizer", "prepare"],
    "train": ["presets", "plan", "train", "resume", "sweep", "data", "runs", "plot"],
    "use": ["generate", "eval", "export", "import", "eject"],
}
