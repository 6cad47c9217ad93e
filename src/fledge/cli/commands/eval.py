"""fledge eval: measure a model on a whole split, on texts and on tasks, and compare it with another."""

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
    "fledge eval hamlet --split none --suite offline --tasks hellaswag,mine.jsonl",
)
NONE = "none"


def add_arguments(parser: Parser) -> None:
    add_run_argument(parser)
    parser.add_argument("--split", default="val", help=f"train, val, test, or {NONE} for no split (default: val)")
    parser.add_argument("--data", metavar="DIR", help="another dataset, prepared with the same tokenizer")
    parser.add_argument("--compare", metavar="RUN2", help="another run or checkpoint: is one really better?")
    references = 'generated texts: JSONL with "prompt", "reference"'
    texts = parser.add_mutually_exclusive_group()
    texts.add_argument("--references", metavar="FILE", type=Path, help=references)
    continuations = "the same with N passages of the split, cut in two"
    texts.add_argument("--continuations", metavar="N", type=positive_int, help=continuations)
    add_task_arguments(parser)
    figure = "loss by position and calibration as a PNG file (default: plots/eval-SPLIT.png of the run)"
    parser.add_argument("--figure", metavar="FILE", type=Path, help=figure)
    add_device_argument(parser)


def add_task_arguments(parser: Parser) -> None:
    suite = "tasks without download: grammar, copying, addition, …"
    parser.add_argument("--suite", choices=["offline"], help=suite)
    tasks = "core, tasks of lm-evaluation-harness, JSONL of questions"
    parser.add_argument("--tasks", metavar="A,B", help=tasks)
    parser.add_argument("--limit", metavar="N", type=positive_int, help="the first N items of each task in --tasks")
    parser.add_argument("--task-folder", metavar="DIR", type=Path, help="YAML files of tasks of your own, for --tasks")
    parser.add_argument("--core-data", metavar="DIR", type=Path, help="core.yaml and the data of the CORE tasks")


def run(args: argparse.Namespace) -> None:
    from fledge.core.distributed import init_distributed
    from fledge.recipes.evaluate import has_dataset, load_checkpoint

    names = task_names(args)
    wants_more = args.references or args.continuations or names
    refuse_unused(args, bool(names), bool(wants_more))
    with init_distributed() as world:  # only its main process prints
        loaded, options = load_checkpoint(args.run, args.runs, args.device), {"device": args.device, "world": world}
        text: list[str] = []
        parts: dict[str, Any] = {}  # those first that may refuse their input
        if args.references or args.continuations:
            parts["texts"] = run_texts(loaded, args, text, options)
        if names:
            parts |= run_tasks(loaded, names, args, text, options)
        about = {"run": loaded.run.name, "step": loaded.checkpoint.step}
        skipped = args.split == NONE or (wants_more and not has_dataset(loaded, args.data))
        split = {} if skipped else run_split(loaded, args, text, options)
        report({**about, **split, **parts}, as_json=args.json, text="\n\n".join(text))


def refuse_unused(args: argparse.Namespace, tasks: bool, wants_more: bool) -> None:
    """Refuse an option that would change nothing."""
    name_split = f"name a split instead of '{NONE}'"
    if args.split == NONE and not wants_more:
        raise UserError("nothing to evaluate", f"{name_split}, or add --suite offline")
    if args.split == NONE and args.figure:
        raise UserError("--figure shows the loss of a split, and there is none", name_split)
    if args.split == NONE and args.compare and not tasks:
        raise UserError("--compare compares a split or tasks, and there are none", f"{name_split}, or add --tasks")
    for option in ("limit", "task_folder", "core_data"):
        if getattr(args, option) is not None and args.tasks is None:
            raise UserError(f"--{option.replace('_', '-')} belongs to --tasks", "add --tasks, or leave it out")


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


def task_names(args: argparse.Namespace) -> list[str]:
    listed = args.tasks.split(",") if args.tasks is not None else []
    names = [name.strip() for name in [*([args.suite] if args.suite else []), *listed]]
    if not all(names):
        raise UserError(f"'{args.tasks}' names no task", "separate the names by commas: --tasks agreement,copying")
    return names


def run_tasks(
    loaded: "LoadedCheckpoint", names: list[str], args: argparse.Namespace, text: list[str], options: dict[str, Any]
) -> dict[str, Any]:
    from fledge.recipes.evaluate_tasks import evaluate_tasks
    from fledge.tasks.table import difference_table, task_table

    where = {"core_data": args.core_data, "task_folder": args.task_folder, "limit": args.limit}
    found = evaluate_tasks(loaded, names, runs=args.runs, compare=args.compare, **where, **options)
    text += [task_table(found.tasks)]
    if found.compared_with is None:
        return {"tasks": to_plain(found.tasks)}
    text += [difference_table(found.compared_with, found.differences)]
    return {"tasks": to_plain(found.tasks), "task_differences": to_plain(found.differences)}
