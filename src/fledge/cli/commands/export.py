"""fledge export: export a model to transformers or llama.cpp."""

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from fledge.cli.arguments import Parser, add_run_argument
from fledge.cli.output import report
from fledge.core.files import human_bytes

if TYPE_CHECKING:
    from fledge.recipes.export import ExportResult

EXAMPLES = (
    "fledge export hamlet --to hf --out hamlet-hf",
    "fledge export hamlet@best --to gguf --dtype q8_0 --out hamlet",
)


def add_arguments(parser: Parser) -> None:
    add_run_argument(parser)
    parser.add_argument("--to", required=True, choices=["hf", "gguf"], help="format: Hugging Face, or llama.cpp's GGUF")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder for the files")
    parser.add_argument(
        "--dtype", choices=["f32", "f16", "bf16", "q8_0"], help="gguf: precision of the weights (default: f16)"
    )


def run(args: argparse.Namespace) -> None:
    from fledge.recipes.export import export

    result = export(args.run, args.to, args.out, runs=args.runs, dtype=args.dtype)
    answer = asdict(result)
    parity = answer.pop("parity")
    report({**answer, **parity}, as_json=args.json, text=describe_result(result))


def describe_result(result: "ExportResult") -> str:
    lines = [f"'{result.run}' at step {result.step:,}, exported as {result.kind} to {result.folder}"]
    lines += [f"  {name:<28}{human_bytes(size):>10}" for name, size in result.files.items()]
    return "\n".join([*lines, f"checked: {result.parity.summary}"])
