"""fledge eval: measure a model on a whole split, on texts and on tasks, and compare it with another."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge.cli.arguments import Parser, add_device_argument, add_run_argument, positive_int
from fledge.cli.output import report, to_plain
from fledge.core.errors import UserError

if TYPE_CHECKING:
    from fledge.evaluation.metrics import SplitMetrics
    from fledge.runs.run_folder import LoadedCheckpoint, RunFolder

EXAMPLES = (
    "fledge eval hamlet",
    "fledge eval hamlet@best --compare hamlet@1000",
    "fledge eval hamlet --split test --metrics smol-gpt",
    "fledge eval hamlet --split none --suite offline --tasks hellaswag,mine.jsonl",
)
NONE = "none"


def add_arguments(parser: Parser) -> None:
    parser.shorten_usage("[RUN] [--split SPLIT]")
    add_run_argument(parser)
    parser.add_argument("--split", default="val", help=f"train, val, test, or {NONE} (default: val)")
    parser.add_argument("--data", metavar="DIR", help="another dataset, prepared with the same tokenizer")
    parser.add_argument("--compare", metavar="RUN2", help="another run or checkpoint: is one really better?")
    add_estimate_arguments(parser)
    references = 'generated texts: JSONL with "prompt", "reference"'
    texts = parser.add_mutually_exclusive_group()
    texts.add_argument("--references", metavar="FILE", type=Path, help=references)
    continuations = "the same with N passages of the split, cut in two"
    texts.add_argument("--continuations", metavar="N", type=positive_int, help=continuations)
    add_task_arguments(parser)
    figure = "loss by position and calibration, as a PNG file"
    parser.add_argument("--figure", metavar="FILE", type=Path, help=figure)
    trust = "execute rewards/*.py of a run that came from elsewhere"
    parser.add_argument("--trust-reward", action="store_true", help=trust)
    add_device_argument(parser)


def add_estimate_arguments(parser: Parser) -> None:
    definition = "also those that smol-GPT publishes, on random batches"
    parser.add_argument("--metrics", choices=["smol-gpt"], help=definition)
    batches = "estimate the loss on N random batches (--metrics: 100)"
    parser.add_argument("--batches", metavar="N", type=positive_int, help=batches)
    parser.add_argument("--batch-size", metavar="B", type=positive_int, help="windows in a random batch (default: 32)")
    parser.add_argument("--seed", metavar="S", type=int, help="of the random batches (default: 0)")


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
    refuse_unused_of_estimates(args)
    for option in ("limit", "task_folder", "core_data"):
        if getattr(args, option) is not None and args.tasks is None:
            raise UserError(f"--{option.replace('_', '-')} belongs to --tasks", "add --tasks, or leave it out")


def refuse_unused_of_estimates(args: argparse.Namespace) -> None:
    drawn = "--metrics" if args.metrics else "--batches" if args.batches else None
    for option in ("batch_size", "seed"):
        if getattr(args, option) is not None and drawn is None:
            name = option.replace("_", "-")
            raise UserError(f"--{name} belongs to --batches and --metrics", "add --batches 100, or leave it out")
    if drawn and args.split == NONE:
        raise UserError(f"{drawn} draws from a split, and there is none", f"name a split instead of '{NONE}'")
    for option in ("compare", "figure"):
        if drawn == "--batches" and getattr(args, option) is not None:
            raise UserError(f"--{option} needs the whole split, and --batches takes a part of it", "use one of them")


def run_split(
    loaded: "LoadedCheckpoint", args: argparse.Namespace, text: list[str], options: dict[str, Any]
) -> dict[str, Any]:
    """Evaluate the split: what --json prints. Puts the text for people before that of other parts."""
    from fledge.core.formatting import short_path
    from fledge.evaluation.table import comparison_table, split_table, title
    from fledge.recipes.estimate import check_estimate
    from fledge.recipes.evaluate import evaluate
    from fledge.runs.methods import PRETRAIN, method_of

    if method_of(loaded.run) != PRETRAIN and args.data is None:
        return run_alignment(loaded.run, args, text, options)
    if args.batches and not args.metrics:
        return run_estimate(loaded, args, None, text, options)
    if args.metrics:
        check_estimate(loaded, args.split, seed=args.seed or 0, data=args.data, world=options["world"])
    figure = args.figure or loaded.run.folder / "plots" / f"eval-{args.split}.png"
    result = evaluate(
        loaded, args.split, runs=args.runs, data=args.data, compare=args.compare, figure=figure, **options
    )
    shown = [f"{title(result.run, result.step, result)}\n{split_table(result, loaded.tokenizer.vocab_size)}"]
    if (other := result.comparison) is not None:
        shown += [comparison_table(f"{other.run}@{other.step}", other.metrics, other)]
    shown += [f"figure: {short_path(result.figure)}"] if result.figure else []
    estimates = run_estimate(loaded, args, result, shown, options) if args.metrics else {}
    text[:0] = shown
    return {**to_plain(result), **estimates}


def run_estimate(
    loaded: "LoadedCheckpoint",
    args: argparse.Namespace,
    whole: "SplitMetrics | None",
    text: list[str],
    options: dict[str, Any],
) -> dict[str, Any]:
    """Estimate from random batches: what --json prints."""
    from fledge.evaluation.table import estimate_table
    from fledge.recipes.estimate import BATCH_SIZE, BATCHES, estimate

    found = estimate(
        loaded,
        args.split,
        definition=args.metrics or "fledge",
        batches=args.batches or BATCHES,
        batch_size=args.batch_size or BATCH_SIZE,
        seed=args.seed or 0,
        data=args.data,
        **options,
    )
    text.append(estimate_table(f"{found.run} at step {found.step:,}", found, whole))
    return {"estimate": to_plain(found)}


def run_alignment(
    run: "RunFolder", args: argparse.Namespace, text: list[str], options: dict[str, Any]
) -> dict[str, Any]:
    """An alignment run has held-out examples in place of splits."""
    from fledge.recipes.evaluate_alignment import evaluate_alignment

    if args.split != "val" or args.compare or args.figure or args.metrics or args.batches:
        raise UserError(
            f"'{run.name}' is evaluated on its held-out examples: it has no splits",
            f"use fledge eval {run.reference}, or name a dataset: --data DIR",
        )
    found = evaluate_alignment(run, trust_reward=args.trust_reward, **options)
    lines = [f"  {name.removeprefix('val/').replace('_', ' '):<24}{value:.4f}" for name, value in found.metrics.items()]
    if found.calibration:
        lines += ["", "  calibration: how often the answer that it prefers is the chosen one"]
        lines += [f"  {'pairs':>8}   its probability   chosen"]
        lines += [f"  {each.pairs:>8}   {each.confidence:>15.1%}   {each.accuracy:>6.1%}" for each in found.calibration]
    text[:0] = ["\n".join([f"{found.run}, step {found.step:,}, {found.method}: on held-out examples", *lines])]
    return to_plain(found)


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
