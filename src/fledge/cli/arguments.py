"""The argument parser, and the arguments that several commands share."""

import argparse
from pathlib import Path
from typing import Any, NoReturn

from fledge.core.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations; a wrong argument is a `UserError`. Subparsers are of this class too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(message, "add --help to see the arguments of this command")

    def show_examples(self, *examples: str) -> None:
        """Print these at the end of --help."""
        lines = "\n".join(f"  {line}" for line in examples)
        self.epilog = f"{'examples' if len(examples) > 1 else 'example'}:\n{lines}"
        self.formatter_class = argparse.RawDescriptionHelpFormatter


def add_common_arguments(parser: Parser, *, subcommand: bool = False) -> None:
    """The arguments of every command. A subcommand takes them too, and must not overwrite those given before it."""
    runs, off = (argparse.SUPPRESS, argparse.SUPPRESS) if subcommand else (Path("runs"), False)
    parser.add_argument("--runs", type=Path, default=runs, metavar="DIR", help="folder of all runs (default: ./runs)")
    parser.add_argument("--json", action="store_true", default=off, help="print one JSON document instead of text")
    parser.add_argument("--debug", action="store_true", default=off, help="show the traceback of an error")


def add_settings_argument(parser: Parser, help: str) -> None:
    """List `--section.key VALUE` in --help; `split_settings` in main.py takes the words themselves."""
    parser.add_argument("--section.key", dest="_", metavar="VALUE", help=help)


def add_run_argument(parser: Parser, *, many: bool = False) -> None:
    what = "name or path of a run; NAME@best, NAME@latest, NAME@1000 (default: the latest run)"
    parser.add_argument("references" if many else "run", nargs="*" if many else "?", metavar="RUN", help=what)


def add_device_argument(parser: Parser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")


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
