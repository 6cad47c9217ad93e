"""The argument parser, and the arguments that several commands share."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fledge.core.config import Layer, merge, read_overrides
from fledge.core.errors import UserError

if TYPE_CHECKING:
    from fledge.inference.request import Sampling


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations; a wrong argument is a `UserError`. Subparsers are of this class too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(message, "add --help to see the arguments of this command")

    def shorten_usage(self, words: str) -> None:
        """For a command with so many options that its usage line would list a screen of them."""
        self.usage = f"{self.prog} {words} [option …]"

    def show_examples(self, *examples: str) -> None:
        """Print these at the end of --help."""
        lines = "\n".join(f"  {line}" for line in examples)
        self.epilog = f"{'examples' if len(examples) > 1 else 'example'}:\n{lines}"
        self.formatter_class = lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=26)


def add_common_arguments(parser: Parser, *, subcommand: bool = False) -> None:
    """The arguments of every command. A subcommand takes them too, and must not overwrite those given before it."""
    runs, off = (argparse.SUPPRESS, argparse.SUPPRESS) if subcommand else (Path("runs"), False)
    parser.add_argument("--runs", type=Path, default=runs, metavar="DIR", help="folder of all runs (default: ./runs)")
    parser.add_argument("--json", action="store_true", default=off, help="print one JSON document instead of text")
    parser.add_argument("--debug", action="store_true", default=off, help="show the traceback of an error")


def add_settings_argument(parser: Parser, help: str) -> None:
    """List `--section.key VALUE` in --help; `split_settings` in main.py takes the words themselves."""
    parser.add_argument("--section.key", dest="_", metavar="VALUE", help=help)


def add_portable_argument(parser: Parser) -> None:
    parser.add_argument("--portable", action="store_true", help="no bigram table: llama.cpp and transformers have none")


def given_settings(args: argparse.Namespace) -> Layer:
    """The settings on the command line; --portable is one of them."""
    given = read_overrides(args.overrides)
    if not args.portable:
        return given
    if "bigram_rows" in given.get("model", {}):
        raise UserError(
            "--portable means no bigram table, and --model.bigram_rows sets its size", "leave one of them out"
        )
    if getattr(args, "init", None):
        raise UserError("--portable is for a new model, and that of --init is as it is", "leave one of them out")
    return merge(given, {"model": {"bigram_rows": "null"}})


def add_run_argument(parser: Parser, *, many: bool = False, checkpoint: bool = True) -> None:
    """checkpoint: the command takes one checkpoint of the run, not the run as a whole."""
    which = "; NAME@best, NAME@latest, NAME@1000" if checkpoint else ""
    what = f"name or path of a run{which} (default: the latest run)"
    parser.add_argument("references" if many else "run", nargs="*" if many else "?", metavar="RUN", help=what)


def add_device_argument(parser: Parser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")


def add_generation_arguments(parser: Parser, tokens: int) -> None:
    """How long the text gets, how its tokens are drawn (`sampling_of`), and where."""
    parser.add_argument(
        "--tokens", type=int, default=tokens, metavar="N", help=f"generate at most N (default: {tokens})"
    )
    drawn = parser.add_mutually_exclusive_group()
    temperature = "0: greedy; 1: the model's own (default: 0.8)"
    drawn.add_argument("--temperature", type=float, default=0.8, metavar="T", help=temperature)
    drawn.add_argument("--greedy", action="store_true", help="always the most likely token: --temperature 0")
    for option, kind, default, metavar, help in (
        ("--top-k", int, None, "K", "draw from the K most likely tokens only"),
        ("--top-p", float, None, "P", "draw from the most likely ones, up to probability P"),
        ("--min-p", float, None, "P", "draw from those P times as likely as the likeliest"),
        ("--repetition-penalty", float, 1.0, "X", "of all tokens that occurred (usual: 1.1)"),
        ("--presence-penalty", float, 0.0, "X", "of generated tokens: X is taken from their logits"),
        ("--frequency-penalty", float, 0.0, "X", "the same, for each time that one was generated"),
        ("--seed", int, 0, "S", "random seed (default: 0)"),
    ):
        parser.add_argument(option, type=kind, default=default, metavar=metavar, help=help)
    past = "when full: reread the newer half (default), or slide"
    parser.add_argument("--past-context", choices=("reread", "slide"), default="reread", metavar="HOW", help=past)
    stop = "end before this string; may be given several times"
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help=stop)
    add_dtype_argument(parser)
    add_device_argument(parser)


def add_dtype_argument(parser: Parser) -> None:
    dtypes = ("auto", "float32", "bfloat16", "int8")
    parser.add_argument(
        "--dtype", default="auto", choices=dtypes, metavar="TYPE", help=f"of the weights: {', '.join(dtypes)}"
    )


def sampling_of(args: argparse.Namespace) -> "Sampling":
    from fledge.inference.request import Sampling

    names = ("top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed")
    temperature = 0.0 if args.greedy else args.temperature
    return Sampling(temperature=temperature, **{name: getattr(args, name) for name in names})


def stop_strings(args: argparse.Namespace) -> list[str]:
    """A shell passes \\n and \\t as they are written."""
    return [text.replace("\\n", "\n").replace("\\t", "\t") for text in args.stop]


def add_engine_arguments(parser: Parser, local: str) -> None:
    help = f"this machine or Ray (default: {local})"
    parser.add_argument("--engine", choices=[local, "ray"], default=local, help=help)
    parser.add_argument("--address", metavar="HOST:PORT", help="of the Ray cluster (default: start one)")


def add_launcher_arguments(parser: Parser) -> None:
    launcher = "let Ray start the processes and restart those that die; not needed with torchrun"
    parser.add_argument("--launcher", choices=["ray"], help=launcher)
    workers = "with --launcher ray: number of processes (default: one per GPU, or one per machine)"
    parser.add_argument("--workers", type=positive_int, metavar="N", help=workers)
    address = "with --launcher ray: address of the cluster (default: start one here)"
    parser.add_argument("--address", metavar="HOST:PORT", help=address)


def refuse_ray_arguments(args: argparse.Namespace) -> None:
    for name in ("workers", "address"):
        if getattr(args, name) is not None and not args.launcher:
            raise UserError(f"--{name} is for --launcher ray", "add --launcher ray, or leave it out")


def positive_int(word: str) -> int:
    if not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a positive integer")
    return int(word)
