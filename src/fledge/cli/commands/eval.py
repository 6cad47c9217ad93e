"""fledge eval: measure a model on a whole split, and compare it with another."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge.cli.arguments import Parser, add_device_argument, add_run_argument, positive_int
from fledge.cli.output import report, to_plain
from fledge.core.errors import UserError

if TYPE_CHECKING:
    from fledge.runs.run_folder import LoadedCheckpoint

EXAMPLES = (
    "fledge eval hamlet",
    "fledge eval hamlet@best --compare hamlet@1000",
    "fledge eval hamlet --split test --json",
    "fledge eval hamlet --split none --references questions.jsonl",
)
NONE = "none"


def add_arguments(parser: Parser) -> None:
    add_run_argument(parser)
    parser.add_argument("--split", default="val", help=f"train, val, test, or {NONE} for no split (default: val)")
    parser.add_argument("--data", metavar="DIR", help="another dataset, also s3://…, prepared with the same tokenizer")
    parser.add_argument("--compare", metavar="RUN2", help="another run or checkpoint: is one of them really better?")
    references = 'measure generated texts: JSONL with a "prompt" and a "reference" (or "references") a line'
    texts = parser.add_mutually_exclusive_group()
    texts.add_argument("--references", metavar="FILE", type=Path, help=references)
    continuations = "the same with passages of the split, cut in two: N of them"
    texts.add_argument("--continuations", metavar="N", type=positive_int, help=continuations)
    figure = "loss by position and calibration as a PNG file (default: plots/eval-SPLIT.png of the run)"
    parser.add_argument("--figure", metavar="FILE", type=Path, help=figure)
    add_device_argument(parser)


def run(args: argparse.Namespace) -> None:
    from fledge.core.distributed import init_distributed
    from fledge.recipes.evaluate import has_dataset, load_checkpoint

    wants_more = args.references or args.continuations
    if args.split == NONE and not wants_more:
        raise UserError("nothing to evaluate", f"name a split instead of '{NONE}', or add --references FILE")
    with init_distributed() as world:  # only its main process prints
        loaded, options = load_checkpoint(args.run, args.runs), {"device": args.device, "world": world}
        text: list[str] = []
        parts: dict[str, Any] = {}  # those first that may refuse their input
        if args.references or args.continuations:
            parts["texts"] = run_texts(loaded, args, text, options)
        about = {"run": loaded.run.name, "step": loaded.checkpoint.step}
        skipped = args.split == NONE or (wants_more and not has_dataset(loaded, args.data))
        split = {} if skipped else run_split(loaded, args, text, options)
        report({**about, **split, **parts}, as_json=args.json, text="\n\n".join(text))


def run_split(
    loaded: "LoadedCheckpoint", args: argparse.Namespace, text: list[str], options: dict[str, Any]
) -> dict[str, Any]:
    """Evaluate the split: what --json prints. Puts the text for people before that of other parts."""
    from fledge.core.formatting import short_path
    from fledge.evaluation.table import comparison_table, split_table, title
    from fledge.recipes.evaluate import evaluate

    figure = args.figure or loaded.run.folder / "plots" / f"eval-{args.split}.png"
    result = evaluate(
        loaded, args.split, runs=args.runs, data=args.data, compare=args.compare, figure=figure, **options
    )
    shown = [f"{title(result.run, result.step, result)}\n{split_table(result, loaded.tokenizer.vocab_size)}"]
    if (other := result.comparison) is not None:
        shown += [comparison_table(f"{other.run}@{other.step}", other.metrics, other)]
    shown += [f"figure: {short_path(result.figure)}"] if result.figure else []
    text[:0] = shown
    return to_plain(result)


def run_texts(
    loaded: "LoadedCheckpoint", args: argparse.Namespace, text: list[str], options: dict[str, Any]
) -> dict[str, Any]:
    from fledge.evaluation.table import text_table
    from fledge.recipes.evaluate_texts import evaluate_generated

    split = "val" if args.split == NONE else args.split
    found = evaluate_generated(loaded, args.references, args.continuations or 0, split=split, data=args.data, **options)
    text += [text_table(found)]
    return to_plain(found)
