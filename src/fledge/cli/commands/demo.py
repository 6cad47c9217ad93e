"""fledge demo: end-to-end demo in about three minutes."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fledge.cli.arguments import Parser
from fledge.cli.output import report
from fledge.core.formatting import format_duration, printable, short_path
from fledge.runs.names import run_word

if TYPE_CHECKING:
    from fledge.recipes.demo import DemoResult

EXAMPLES = (
    "fledge demo",
    "fledge demo --minutes 10",
)


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--minutes", type=float, default=3.0, help="how long the whole demo may take (default: 3)")


def run(args: argparse.Namespace) -> None:
    from fledge.recipes.demo import demo

    result = demo(args.minutes, args.runs)
    report(result, as_json=args.json, text=describe_result(result))


def describe_result(result: "DemoResult") -> str:
    before, after = (quote(sample.text) for sample in result.samples)
    return f"""
what it generates before the first step:
{before}

what it generates after {result.step:,} steps:
{after}

{format_duration(result.seconds)} in all. The metrics: {short_path(result.picture)}
Everything else about this run: {short_path(Path(result.folder))}

next steps:
{next_commands(run_word(Path(result.folder)))}"""


def next_commands(run: str) -> str:
    commands = {
        f"fledge generate {run} --prompt 'class'": "generate more text",
        f"fledge eval {run}": "measure it on text that it has not seen",
        "fledge train demo --train.steps 10000": "train longer",
        "fledge train my-notes/": "train on your own text",
        "fledge --help": "all commands",
    }
    return "\n".join(f"  {command:<42}{purpose}" for command, purpose in commands.items())


def quote(text: str, lines: int = 12) -> str:
    return "\n".join(f"    | {line:.86}" for line in printable(text).splitlines()[:lines])
