"""fledge eval: measure a model on a whole split."""

import argparse

from fledge.cli.arguments import Parser, add_device_argument, add_run_argument
from fledge.cli.output import report, to_plain

EXAMPLES = (
    "fledge eval hamlet",
    "fledge eval hamlet@latest --json",
)
NONE = "none"


def add_arguments(parser: Parser) -> None:
    add_run_argument(parser)
    parser.add_argument("--split", default="val", help=f"train, val, test, or {NONE} (default: val)")
    parser.add_argument("--data", metavar="DIR", help="another dataset, also s3://…, prepared with the same tokenizer")
    add_device_argument(parser)


def run(args: argparse.Namespace) -> None:
    from fledge.core.distributed import init_distributed
    from fledge.evaluation.table import split_table, title
    from fledge.recipes.evaluate import evaluate, load_checkpoint

    with init_distributed() as world:  # only its main process prints
        loaded, options = load_checkpoint(args.run, args.runs), {"device": args.device, "world": world}
        answer, text = {"run": loaded.run.name, "step": loaded.checkpoint.step}, []
        if args.split != NONE:
            result = evaluate(loaded, args.split, data=args.data, **options)
            answer |= to_plain(result)
            text += [title(result.run, result.step, result), split_table(result, loaded.tokenizer.vocab_size)]
        report(answer, as_json=args.json, text="\n".join(text))
