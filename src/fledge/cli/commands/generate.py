"""fledge generate: continue a prompt, printed as it is generated."""

import argparse
import sys
from typing import TYPE_CHECKING

from fledge.cli.arguments import Parser, add_device_argument, add_run_argument
from fledge.cli.output import report
from fledge.core.formatting import printable

if TYPE_CHECKING:
    from fledge.recipes.generate import GeneratedText

EXAMPLES = (
    "fledge generate hamlet --prompt 'To be'",
    "fledge generate                          the latest run",
    "fledge generate hamlet@1000 --greedy --tokens 100",
)


def add_arguments(parser: Parser) -> None:
    add_run_argument(parser)
    parser.add_argument("--prompt", default=None, help="beginning of the text ('-' reads it from stdin)")
    parser.add_argument("--tokens", type=int, default=300, metavar="N", help="how many tokens to add (default: 300)")
    temperature = "0: greedy; 1: the model's own distribution (default: 0.8)"
    parser.add_argument("--temperature", type=float, default=0.8, metavar="T", help=temperature)
    parser.add_argument("--top-k", type=int, metavar="K", help="sample from the K most likely tokens only")
    parser.add_argument(
        "--top-p", type=float, metavar="P", help="sample from the most likely tokens up to probability P"
    )
    parser.add_argument("--greedy", action="store_true", help="always the most likely token: --temperature 0")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    add_device_argument(parser)


def run(args: argparse.Namespace) -> None:
    from fledge.recipes.generate import generate_text

    generated = generate_text(
        args.run,
        sys.stdin.read() if args.prompt == "-" else args.prompt,
        runs=args.runs,
        tokens=args.tokens,
        temperature=0.0 if args.greedy else args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        seed=args.seed,
        device=args.device,
    )
    if args.json:
        text = "".join(generated.pieces)
        answer = {"run": generated.run, "step": generated.step, "prompt": generated.prompt, "text": text}
        report(answer, as_json=True, text=text)
    else:
        print_stream(generated)


def print_stream(generated: "GeneratedText") -> None:
    """Print the prompt, then each piece as soon as it is generated."""
    show = printable if sys.stdout.isatty() else str
    print(show(generated.prompt), end="", flush=True)
    for piece in generated.pieces:
        print(show(piece), end="", flush=True)
    print(flush=True)
