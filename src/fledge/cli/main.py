"""The `fledge` command: find the command's module, parse its arguments, run it, and report errors.

Only the module of the given command is imported, and torch only inside its `run`, so that --help is fast.
"""

import argparse
import atexit
import gc
import importlib
import io
import itertools
import os
import re
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Protocol, cast

from fledge import __version__
from fledge.cli.arguments import Parser, add_common_arguments
from fledge.cli.output import print_error, print_user_error
from fledge.cli.suggestions import unknown_command, unknown_option
from fledge.core.errors import Interrupted, UserError, out_of_memory, to_user_error
from fledge.core.signals import signal_number, sigterm_as_ctrl_c
from fledge.core.torch_version import refuse_untested_torch
from fledge.settings.foreign_names import refuse_foreign_settings

BEGUN = time.perf_counter()  # of this process, nearly: what takes long to import is imported later

# The registry of commands (subparsers), by group: name → summary. To add one: a line here, a module in commands/ with
# EXAMPLES, add_arguments (add_parser for subcommands) and run, and a recipe.
COMMAND_GROUPS = {
    "begin": {
        "demo": "end-to-end demo in about three minutes",
        "doctor": "this machine, and what fledge will use on it",
        "completion": "complete commands and settings with the Tab key",
        "smoke": "check that training, killing, resuming and generating work here",
    },
    "text": {
        "corpora": "list the named corpora",
        "tokenizer": "train and inspect tokenizers",
        "prepare": "tokenize text into a dataset",
    },
    "train": {
        "presets": "list the presets and their sizes",
        "plan": "forecast time, memory and loss of a training run",
        "train": "train a model",
        "resume": "continue a run exactly where it stopped",
        "align": "teach a model to answer: SFT, reward models, DPO, PPO, GRPO",
        "sweep": "search for the best settings with many training runs",
    },
    "look": {
        "runs": "list the runs; delete and rename them",
        "watch": "follow a run in the terminal, live or finished",
        "plot": "draw loss, learning rate, gradient norm, speed",
        "report": "write a run as one page: HTML and Markdown",
        "data": "show the text that a step learned from, or the steps of a text",
        "studio": "web pages: runs, playground, microscope, tokenizer, data, origin",
    },
    "use": {
        "generate": "let a model continue texts",
        "chat": "talk with a model",
        "eval": "measure a model: its loss, its texts, tasks with right answers",
        "serve": "OpenAI-compatible server for models",
        "export": "export a model to transformers or llama.cpp",
        "import": "import a model from another program",
        "eject": "write a model as one standalone Python file",
    },
}
SUMMARIES = {name: summary for group in COMMAND_GROUPS.values() for name, summary in group.items()}
MODULES = {"import": "import_model"}  # in commands/, where the module cannot have the command's name
DISTRIBUTED = ("train", "align", "resume", "eval")  # torchrun can start these
OPTION = re.compile(r"--\w[\w.-]*(=.*)?", re.DOTALL)  # any other word, such as '--- Chapter 1', is a value


class Command(Protocol):
    """What a module in commands/ holds. With `TAKES_SETTINGS = True` it also takes --section.key VALUE."""

    EXAMPLES: tuple[str, ...]

    def add_arguments(self, parser: Parser) -> None: ...

    def run(self, args: argparse.Namespace) -> None: ...


def overview() -> str:
    """`fledge --help`: all commands on one screen."""
    lines = ["Raise a GPT from scratch: your text, your machine, every step visible."]
    lines += ["usage: fledge COMMAND …   explained by: fledge COMMAND --help", ""]
    for group, commands in COMMAND_GROUPS.items():
        lines += [f"{group}:", *(f"  {name:<12}{summary}" for name, summary in commands.items()), ""]
    lines += ["new here? fledge demo   your own text: fledge train my-notes/"]
    return "\n".join(lines)


def load_command(name: str) -> Command:
    return cast(Command, importlib.import_module(f"fledge.cli.commands.{MODULES.get(name, name)}"))


def make_parser(name: str) -> Parser:
    command, summary = load_command(name), SUMMARIES[name]
    parser = Parser(prog=f"fledge {name}", description=f"{summary[0].upper()}{summary[1:]}.")
    parser.show_examples(*command.EXAMPLES)
    command.add_arguments(parser)
    add_common_arguments(parser)
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command; `args.overrides` holds the words of its --section.key VALUE."""
    name, *words = argv
    if name not in SUMMARIES:
        raise unknown_command(name, SUMMARIES)
    if name not in DISTRIBUTED and os.environ.get("WORLD_SIZE", "1") != "1":  # every rank would do all of it
        raise UserError(f"torchrun cannot start fledge {name}", f"it can start {', '.join(DISTRIBUTED)}")
    parser, takes_settings = make_parser(name), getattr(load_command(name), "TAKES_SETTINGS", False)
    words, settings = split_settings(words) if takes_settings else (words, [])
    refuse_foreign_settings(settings)
    options = [option for action in parser._actions for option in action.option_strings]
    if not any(isinstance(action, argparse._SubParsersAction) for action in parser._actions):
        words = join_values(words, parser._actions)
        unknown = [word for word in options_in(words) if word.partition("=")[0] not in options]
        if unknown:  # before argparse asks for an argument that is missing because another is misspelt
            raise unknown_option(name, unknown[0], words, options, takes_settings=takes_settings)
    args, rest = parser.parse_known_args(words)
    if rest:
        raise unknown_option(name, rest[0], words, options, takes_settings=takes_settings)
    args.command, args.overrides = name, settings
    return args


def options_in(words: Sequence[str]) -> list[str]:
    """The words that look like options, up to a `--`."""
    return [word for word in itertools.takewhile(lambda word: word != "--", words) if OPTION.fullmatch(word)]


def join_values(words: Sequence[str], actions: Iterable[argparse.Action]) -> list[str]:
    """Write `--prompt ---` as `--prompt=---`: argparse takes no separate value that begins with a dash."""
    with_value = {option for action in actions if action.nargs is None for option in action.option_strings}
    joined: list[str] = []
    for word in words:
        dashed = word.startswith("-") and word not in ("-h", "--") and not OPTION.fullmatch(word)
        if dashed and joined and joined[-1] in with_value:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def split_settings(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate `--section.key value`, wherever it stands, from the words that argparse takes."""
    rest, settings = [], []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if OPTION.fullmatch(word) and "." in word.partition("=")[0]:
            settings.append(word)
            if "=" not in word and queue and not OPTION.fullmatch(queue[0]):
                settings.append(queue.pop(0))
        else:
            rest.append(word)
    return rest, settings


def run_command(argv: Sequence[str], begun: float) -> None:
    args = parse(argv)
    args.begun = begun
    refuse_untested_torch()
    with sigterm_as_ctrl_c():
        load_command(args.command).run(args)
    if sys.stdout:
        sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status."""
    begun = time.perf_counter()
    if argv is None:  # all that this process does
        begun = BEGUN
        atexit.register(gc.freeze)  # else Python looks for cycles in all of torch once more, which takes a second
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # for terminals that lack some letters
    try:
        if not argv or argv[0] in ("-h", "--help", "help"):
            print(overview(), flush=True)
        elif argv[0] in ("-V", "--version"):
            print(f"fledge {__version__}", flush=True)
        else:
            run_command(argv, begun)
    except Interrupted as stop:
        print_error(f"stopped, and everything is saved; continue with: {stop.resume_with}")
        return stop.code
    except KeyboardInterrupt as stop:
        print_error("stopped")
        return 128 + signal_number(stop)
    except BrokenPipeError:  # e.g. `fledge runs | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (UserError, OSError, MemoryError, RuntimeError) as error:
        if "--debug" in argv or (isinstance(error, RuntimeError) and not out_of_memory(error)):
            raise
        print_user_error(error if isinstance(error, UserError) else to_user_error(error))
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
