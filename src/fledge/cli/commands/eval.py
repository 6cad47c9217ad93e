"""fledge eval: measure a model on a whole split."""

import argparse
from typing import TYPE_CHECKING

from fledge.cli.arguments import Parser, add_device_argument, add_run_argument
from fledge.cli.output import report

if TYPE_CHECKING:
    from fledge.recipes.evaluate import EvaluateResult

EXAMPLES = (
    "fledge eval hamlet",
    "fledge eval hamlet@latest --json",
)


def add_arguments(parser: Parser) -> None:
    add_run_argument(parser)
    parser.add_argument("--split", default="val", help="train, val or test (default: val)")
    parser.add_argument("--data", metavar="DIR", help="another dataset, also s3://…, prepared with the same tokenizer")
    add_device_argument(parser)


def run(args: argparse.Namespace) -> None:
    from fledge.core.distributed import init_distributed
    from fledge.recipes.evaluate import evaluate

    with init_distributed() as world:  # only its main process prints
        result = evaluate(args.run, args.split, runs=args.runs, data=args.data, device=args.device, world=world)
        report(result, as_json=args.json, text=describe_result(result))


def describe_result(result: "EvaluateResult") -> str:
    return (
        f"{result.run} at step {result.step:,}, {result.split} split:"
        f" {result.tokens:,} tokens in windows of {result.context}\n"
        f"  loss           {result.loss:.4f} nats per token\n"
        f"  perplexity     {result.perplexity:.3f}\n"
        f"  bits per byte  {result.bits_per_byte:.4f}\n"
        f"  accuracy       {result.accuracy:.4f}  (fraction of tokens that were the most likely one)"
    )
