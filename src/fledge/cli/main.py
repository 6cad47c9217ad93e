"""The command line: verb → recipe, imported only when it is called.

Here are dispatch and the last word on errors. What each verb takes stands in cli/verbs.py; what it does, in recipes/.
"""

import argparse
import contextlib
import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

from fledge import __version__
from fledge.cli.verbs import JOURNEY, VERBS, Parser, Verb, common_arguments
from fledge.core.errors import Interrupted, Sigterm, UserError, from_os_error, nearest, out_of_memory, signal_of
from fledge.core.torch_version import refuse_untested_torch


def overview() -> str:
    """`fledge --help`: the journey on one screen."""
    lines = ["Raise a GPT from scratch: your text, your machine, every step visible.", "", "usage: fledge VERB …", ""]
    for stage, names in JOURNEY.items():
        lines += [f"{stage}:", *(f"  {name:<11}{VERBS[name].help}" for name in names), ""]
    lines += ["new here?  fledge demo", "one verb:  fledge VERB --help"]
    return "\n".join(lines)


def parser_of(name: str, verb: Verb) -> argparse.ArgumentParser:
    parser = Parser(
        prog=f"fledge {name}",
        description=verb.help[0].upper() + verb.help[1:] + ".",
        epilog="examples:\n" + "\n".join(f"  {line}" for line in verb.examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.arguments(parser)
    common_arguments(parser)
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    name, *words = argv
    if name not in VERBS:
        raise UserError(f"unknown verb '{name}'", nearest(name, VERBS) or "fledge --help lists the verbs")
    verb = VERBS[name]
    refuse_many(name, verb)
    parser = parser_of(name, verb)
    words, settings = split_settings(words) if verb.settings else (words, [])
    args, rest = parser.parse_known_args(words)
    if rest:
        wrong = rest[0].partition("=")[0]
        known = [option for action in parser._actions for option in action.option_strings]
        raise UserError(f"unknown argument '{wrong}'", nearest(wrong, known) or f"see: fledge {name} --help")
    args.verb, args.overrides = name, settings
    return args


def refuse_many(name: str, verb: Verb) -> None:
    """torchrun would have each of its processes do the whole of it."""
    if not verb.together and os.environ.get("WORLD_SIZE", "1") != "1":
        able = ", ".join(each for each in VERBS if VERBS[each].together)
        raise UserError(f"fledge {name} is done by one process", f"leave torchrun out: it is for {able}")


def one_line(text: str) -> str:
    """Names come from outside: they can neither break the line nor move the cursor."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def split_settings(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """`--section.key value` may stand anywhere: what is left is argparse's."""
    rest, settings = [], []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word.startswith("--") and "." in word.partition("=")[0]:
            settings.append(word)
            if "=" not in word and queue and not queue[0].startswith("--"):
                settings.append(queue.pop(0))
        else:
            rest.append(word)
    return rest, settings


def tell_error(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(text, file=sys.stderr)


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Who is asked to end tidies up first. Only the main thread of a process can arrange that."""

    def stop(*_: object) -> None:
        raise Sigterm

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without our letters still gets the others
    debug = "--debug" in argv
    try:
        if not argv or argv[0] in ("-h", "--help", "help"):
            print(overview(), flush=True)
            return 0
        if argv[0] in ("-V", "--version"):
            print(f"fledge {__version__}", flush=True)
            return 0
        args = parse(argv)
        refuse_untested_torch()
        with sigterm_as_ctrl_c():
            importlib.import_module(f"fledge.recipes.{VERBS[args.verb].recipe or args.verb}").run(args)
        if sys.stdout:
            sys.stdout.flush()
        return 0
    except Interrupted as stop:
        tell_error(f"stopped, and everything is saved; go on with: {stop.resume_with}")
        return stop.code
    except KeyboardInterrupt as stop:
        tell_error("stopped")
        return 128 + signal_of(stop)
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UserError, OSError, MemoryError, RuntimeError) as error:
        if debug or (isinstance(error, RuntimeError) and not out_of_memory(error)):
            raise
        mistake = error if isinstance(error, UserError) else from_os_error(error)
        tell_error(f"error: {one_line(mistake.message)}\nhint: {one_line(mistake.hint)}")
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
