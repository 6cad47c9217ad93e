"""fledge generate: continue a prompt, printed as it is generated."""

import argparse

from fledge.cli.arguments import Parser, add_device_argument, add_run_argument

EXAMPLES = (
    "fledge generate hamlet --prompt 'To be'",
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
    from fledge.recipes import generate

    generate.run(args)
