"""fledge eject: write a model as one standalone Python file."""

import argparse
import shlex
from typing import TYPE_CHECKING

from fledge.cli.arguments import Parser, add_settings_argument
from fledge.cli.output import report
from fledge.core.config import read_overrides

if TYPE_CHECKING:
    from fledge.recipes.eject import EjectResult

EXAMPLES = (
    "fledge eject hamlet --out gpt.py",
    "fledge eject gpt2 --model.n_layer 6 --out half.py",
)
TAKES_SETTINGS = True


def add_arguments(parser: Parser) -> None:
    model = "a run, a preset or a FILE.toml, tried in this order (default: the latest run)"
    parser.add_argument("model", nargs="?", metavar="PRESET|RUN", help=model)
    parser.add_argument("--out", required=True, metavar="FILE", help="the new file, e.g. gpt.py")
    add_settings_argument(parser, "with a preset: any setting, e.g. --model.n_layer 6")


def run(args: argparse.Namespace) -> None:
    from fledge.recipes.eject import eject

    result = eject(args.model, args.out, read_overrides(args.overrides), args.runs)
    size = f"a GPT of {result.parameters:,} parameters, in {result.lines} lines"
    text = f"{result.file}: '{result.name}', {size}\nnext: {next_command(result)}"
    report(result, as_json=args.json, text=text)


def next_command(result: "EjectResult") -> str:
    """The command line that trains the file, or writes a text with the weights of its run."""
    if result.weights:
        words = ["generate", "--weights", str(result.weights), "--tokenizer", str(result.tokenizer)]
    else:
        words = ["train", "book.txt", "--tokenizer", "tokenizer.json"]
    return shlex.join(["python", str(result.file), *words])
