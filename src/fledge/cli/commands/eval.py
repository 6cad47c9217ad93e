"""fledge eval: measure a model on a whole split, and compare it with another."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge.cli.arguments import Parser, add_device_argument, add_run_argument
from fledge.cli.output import report, to_plain

if TYPE_CHECKING:
    from fledge.runs.run_folder import LoadedCheckpoint

EXAMPLES = (
    "fledge eval hamlet",
    "fledge eval hamlet@best --compare hamlet@1000",
    "fledge eval hamlet --split test --json",
)
NONE = "none"


def add_arguments(parser: Parser) -> None:
    add_run_argument(parser)
    parser.add_argument("--split", default="val", help=f"train, val, test, or {NONE} (default: val)")
    parser.add_argument("--data", metavar="DIR", help="another dataset, also s3://…, prepared with the same tokenizer")
    parser.add_argument("--compare", metavar="RUN2", help="another run or checkpoint: is one of them really better?")
    figure = "loss by position and calibration as a PNG file (default: plots/eval-SPLIT.png of the run)"
    parser.add_argument("--figure", metavar="FILE", type=Path, help=figure)
    add_device_argument(parser)


def run(args: argparse.Namespace) -> None:
    from fledge.core.distributed import init_distributed
    from fledge.recipes.evaluate import load_checkpoint

    with init_distributed() as world:  # only its main process prints
        loaded, options = load_checkpoint(args.run, args.runs), {"device": args.device, "world": world}
        answer: dict[str, Any] = {"run": loaded.run.name, "step": loaded.checkpoint.step}
        text: list[str] = []
        if args.split != NONE:
            answer |= run_split(loaded, args, text, options)
        report(answer, as_json=args.json, text="\n\n".join(text))


def run_split(
    loaded: "LoadedCheckpoint", args: argparse.Namespace, text: list[str], options: dict[str, Any]
) -> dict[str, Any]:
    """Evaluate the split: what --json prints. Adds the text for people to `text`."""
    from fledge.core.formatting import short_path
    from fledge.evaluation.table import comparison_table, split_table, title
    from fledge.recipes.evaluate import evaluate

    figure = args.figure or loaded.run.folder / "plots" / f"eval-{args.split}.png"
    result = evaluate(
        loaded, args.split, runs=args.runs, data=args.data, compare=args.compare, figure=figure, **options
    )
    text += [f"{title(result.run, result.step, result)}\n{split_table(result, loaded.tokenizer.vocab_size)}"]
    if (other := result.comparison) is not None:
        text += [comparison_table(f"{other.run}@{other.step}", other.metrics, other)]
    text += [f"figure: {short_path(result.figure)}"] if result.figure else []
    return to_plain(result)
