"""fledge watch: follow a run in the terminal, while it is trained or afterwards."""

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from fledge.cli.arguments import Parser, add_run_argument
from fledge.cli.output import print_error, report
from fledge.core.errors import UserError
from fledge.core.files import to_json
from fledge.core.signals import signal_number

if TYPE_CHECKING:
    from fledge.recipes.watch import WatchResult
    from fledge.tracking.events import Event

EXAMPLES = (
    "fledge watch",
    "fledge watch hamlet",
    "ssh gpu-box fledge watch hamlet --jsonl > events.jsonl",
)


def add_arguments(parser: Parser) -> None:
    add_run_argument(parser, checkpoint=False)
    stream = "print the events as JSON lines, those so far and those to come; --json prints the state now, and ends"
    parser.add_argument("--jsonl", action="store_true", help=stream)


def run(args: argparse.Namespace) -> None:
    from fledge.recipes.watch import open_watched, watch
    from fledge.tracking.terminal import terminal_view

    if args.json and args.jsonl:
        hint = "--json prints the state now, --jsonl the events as they come"
        raise UserError("--json and --jsonl exclude each other", hint)
    opened = open_watched(args.run, args.runs)
    if args.json or args.jsonl:
        result = watch(opened, JSONLines() if args.jsonl else Silent(), follow=not args.json, whole=args.jsonl)
        if args.json:
            report(result, as_json=True, text="")
        return
    view = terminal_view(sys.stdout, watching=True)
    try:
        result = watch(opened, view)
    except KeyboardInterrupt as stop:
        raise SystemExit(128 + signal_number(stop)) from None  # main would say that something was stopped
    finally:
        view.close()
    print_error(describe(result, opened.reference))


def describe(result: "WatchResult", word: str) -> str:
    """How the run ended, and the next command."""
    name, at = f"'{result.run}'", f"step {result.step:,} of {result.steps:,}"
    if result.state == "finished":
        early = f": {result.stopped_early}" if result.stopped_early else ""
        return f"{name} is finished{early}; next: fledge generate {word} · fledge plot {word}"
    if result.state == "imported":
        return f"{name} was imported: it has not been trained here; next: fledge generate {word}"
    if result.state == "damaged":
        return f"{name} is damaged: what could be read is shown"
    if not result.steps:
        return f"{name} has not begun to train; begin: fledge resume {word}"
    how = {"interrupted": "was interrupted", "failed": "failed", "killed": "was killed"}.get(result.state, "is")
    return f"{name} {how} at {at}; go on with: fledge resume {word}"


class Silent:
    def record(self, event: "Event", at: float | None = None, *, seen: bool = False) -> None: ...

    def restart(self) -> None: ...


class JSONLines(Silent):
    def record(self, event: "Event", at: float | None = None, *, seen: bool = False) -> None:
        if not seen:
            print(to_json({"event": type(event).__name__, "time": at, **asdict(event)}), flush=True)
