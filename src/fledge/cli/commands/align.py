"""fledge align: teach a model to answer, and to answer well."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fledge.cli.arguments import Parser, add_common_arguments, add_settings_argument, positive_int
from fledge.cli.output import report
from fledge.core.config import merge, read_overrides, to_layer, to_toml
from fledge.core.formatting import counted
from fledge.runs.names import run_word
from fledge.tracking.terminal import format_metrics

if TYPE_CHECKING:
    from fledge.recipes.align import AlignResult, TaskInfo
    from fledge.recipes.preferences import Preferences

METHODS = {
    "sft": "learn to answer from conversations with good answers",
    "reward": "train a reward model on pairs of a better and a worse answer",
    "dpo": "prefer better answers: direct preference optimization, on such pairs",
    "ppo": "raise the reward of sampled answers: proximal policy optimization",
    "grpo": "raise the reward of sampled answers, each compared with others to the same prompt",
    "reinforce": "raise the reward of sampled answers in the simplest way",
}
ONLINE = ("ppo", "grpo", "reinforce")  # these sample answers and reward them
RULE = " (default: the rule of the task)"
EXAMPLES = (
    "fledge align tasks",
    "fledge align sft --init demo --data chats.jsonl --run helper",
    "fledge align sft --init demo --data chats.jsonl --lora 16",
    "fledge align reward --init helper --data pairs.jsonl --run taste",
    "fledge align dpo --init helper --data pairs.jsonl",
    "fledge align pairs --init helper --data style --out pairs.jsonl",
    "fledge align grpo --init helper --data addition",
    "fledge align ppo --init helper --data prompts.jsonl --reward taste --reward short.py=0.5",
)
GYM = "reasoning-gym:NAME  any dataset of the package reasoning-gym: pip install 'fledge[reasoning-gym]'"
TAKES_SETTINGS = True


def add_arguments(parser: Parser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="|".join([*METHODS, "pairs", "tasks"]))
    for name, summary in METHODS.items():
        method = actions.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        add_sources(method, "start from the weights of this run")
        if name in (*ONLINE, "dpo"):
            add_reward(method, RULE if name in ONLINE else ": for answers to held-out prompts only")
        lora = "train adapters of this rank instead of the weights, at ten times the preset's learning rate"
        method.add_argument("--lora", type=positive_int, metavar="RANK", help=lora)
        method.add_argument("--run", metavar="NAME", help="name of the new run (default: RUN-METHOD)")
        method.add_argument(
            "--print-config", action="store_true", help="print every setting with its meaning, and exit"
        )
        add_settings_argument(method, "any setting, e.g. --train.steps 500, --optim.lr 1e-4; see --print-config")
        method.show_examples(*(line for line in EXAMPLES if f"align {name} " in line))
        add_common_arguments(method, subcommand=True)
    summary = "make pairs for reward and dpo: answers of a run, ranked by a reward"
    pairs = actions.add_parser("pairs", help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    add_sources(pairs, "the run that answers")
    add_reward(pairs, RULE)
    pairs.add_argument("--out", required=True, type=Path, metavar="FILE", help="the file to write (JSONL)")
    count = "answers to each prompt, of which the best and the worst are a pair (default: 4)"
    pairs.add_argument("--samples", type=positive_int, default=4, metavar="N", help=count)
    add_settings_argument(pairs, "e.g. --rollout.max_tokens 40, --rollout.temperature 0.8, --align.examples 2000")
    pairs.show_examples(*(line for line in EXAMPLES if "align pairs " in line))
    add_common_arguments(pairs, subcommand=True)
    tasks = actions.add_parser("tasks", help="list the built-in tasks")
    add_common_arguments(tasks, subcommand=True)


def add_sources(parser: Parser, init: str) -> None:
    data = "file, folder, hf:// dataset or built-in task; may be given several times"
    parser.add_argument("--init", required=True, metavar="RUN", help=init)
    parser.add_argument("--data", action="append", required=True, metavar="FILE|TASK", help=data)


def add_reward(parser: Parser, default: str) -> None:
    text = f"what rewards an answer; =W multiplies it; several are added{default}"
    parser.add_argument("--reward", action="append", default=[], metavar="RUN|FILE.py|TASK[=W]", help=text)


def run(args: argparse.Namespace) -> None:
    if args.action == "tasks":
        from fledge.recipes.align import list_tasks

        tasks = list_tasks()
        report(tasks, as_json=args.json, text="\n\n".join([*map(describe_task, tasks), GYM]))
        return
    overrides = read_overrides(args.overrides)
    if args.action == "pairs":
        from fledge.recipes.preferences import make_preference_file

        pairs = make_preference_file(
            args.init, args.data, args.out, overrides, args.runs, reward=args.reward, samples=args.samples
        )
        report(pairs, as_json=args.json, text=describe_pairs(pairs))
        return
    from fledge.core.distributed import init_distributed
    from fledge.recipes.align import align, print_settings

    if args.lora is not None:
        overrides = merge(overrides, {"model": {"lora": args.lora}})
    reward = getattr(args, "reward", [])
    if args.print_config:
        settings = print_settings(args.action, args.init, args.data, overrides, args.runs, reward=reward)
        report(to_layer(settings), as_json=args.json, text=to_toml(settings, explain=True))
        return
    with init_distributed() as world:  # only its main process prints
        result = align(
            args.action, args.init, args.data, overrides, args.runs, reward=reward, name=args.run, world=world
        )
        report(result, as_json=args.json, text=describe_result(result))


def describe_task(task: "TaskInfo") -> str:
    answers = [f"  reward {reward:<9.2g}{text}" for text, reward in task.answers]
    return "\n".join([f"{task.name:<18}{task.summary}", f"  prompt          {task.prompt}", *answers])


def describe_pairs(pairs: "Preferences") -> str:
    rewards = f"mean reward {pairs.chosen_reward:.3f} of the chosen, {pairs.rejected_reward:.3f} of the rejected"
    return f"{pairs.path}: {counted(pairs.pairs, 'pair')} from {counted(pairs.prompts, 'prompt')}; {rewards}"


def describe_result(result: "AlignResult") -> str:
    word = run_word(result.folder)
    values = format_metrics(result.metrics).get("val")
    best = "" if result.best_step is None else f"; the best is step {result.best_step:,}"
    lines = [f"'{result.run}' finished after {counted(result.step, 'step')}{best}"]
    lines += [f"on held-out examples: {values}"] * (values is not None)
    use = f"fledge eval {word}" if result.method == "reward" else f"fledge chat {word}"
    return "\n".join([*lines, f"next: {use} · fledge plot {word}"])
