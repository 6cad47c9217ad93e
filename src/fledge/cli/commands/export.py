"""fledge export: a model for other programs: transformers, llama.cpp."""

import argparse

from fledge.cli.arguments import Parser, add_run_argument

EXAMPLES = (
    "fledge export hamlet --to hf --out hamlet-hf",
    "fledge export hamlet@best --to gguf --dtype q8_0 --out hamlet",
)


def add_arguments(parser: Parser) -> None:
    add_run_argument(parser)
    parser.add_argument("--to", required=True, choices=["hf", "gguf"], help="format: Hugging Face, or llama.cpp's GGUF")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder for the files")
    parser.add_argument("--dtype", choices=["f32", "f16", "q8_0"], help="gguf: precision of the weights (default: f16)")


def run(args: argparse.Namespace) -> None:
    from fledge.recipes import export

    export.run(args)
