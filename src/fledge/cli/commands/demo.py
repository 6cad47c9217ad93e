"""fledge demo: end-to-end demo in about three minutes; with --align, to aligned answers in about 13."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fledge.cli.arguments import Parser
from fledge.cli.output import report
from fledge.core.errors import UserError
from fledge.core.files import user_path
from fledge.core.formatting import format_duration, printable, short_path
from fledge.runs.names import run_word

if TYPE_CHECKING:
    from fledge.recipes.demo import DemoResult
    from fledge.recipes.demo_align import AlignDemoResult

EXAMPLES = (
    "fledge demo",
    "fledge demo --minutes 10",
    "fledge demo --align",
    "fledge demo --align --export exported/",
)


def add_arguments(parser: Parser) -> None:
    longest = "how long the whole demo may take (default: 3; with --align: 13)"
    parser.add_argument("--minutes", type=float, metavar="N", help=longest)
    align = "pretraining, SFT, reward model, DPO, PPO and GRPO, with answers before and after"
    parser.add_argument("--align", action="store_true", help=align)
    out = "with --align: export the last model to DIR, for transformers and llama.cpp"
    parser.add_argument("--export", type=Path, metavar="DIR", help=out)


def run(args: argparse.Namespace) -> None:
    if args.align:
        from fledge.recipes.demo_align import MINUTES, demo_align

        minutes = MINUTES if args.minutes is None else args.minutes
        aligned = demo_align(minutes, args.runs, args.export and user_path(str(args.export)))
        report(aligned, as_json=args.json, text=describe_aligned(aligned))
        return
    if args.export:
        raise UserError("--export belongs to --align", "fledge demo --align --export DIR, or later: fledge export demo")
    from fledge.recipes.demo import demo

    result = demo(3.0 if args.minutes is None else args.minutes, args.runs, args.begun)
    report(result, as_json=args.json, text=describe_result(result))


def describe_aligned(result: "AlignDemoResult") -> str:
    """Answers before and after, the table of stages, the figure, and the next commands."""
    lines = [""]
    for each in result.answers:
        lines.append(f"  {each.question}")
        for name, text in each.answers.items():
            shown = " ".join(printable(text).split()) or "(nothing)"
            lines.append(f"    {name:<12} {shown[:97] + '…' if len(shown) > 98 else shown}")
        lines.append("")
    lines.append(f"{'stage':<22}{'time':>14}{'reward by the rule':>22}")
    for stage in result.stages:
        took = format_duration(stage.seconds) if stage.seconds >= 1 else "done before"
        lines.append(f"{stage.run:<22}{took:>14}{'' if stage.reward is None else f'{stage.reward:.3f}':>22}")
    lines += [f"{'in all':<22}{format_duration(result.seconds):>14}", "", f"curves: {short_path(result.picture)}"]
    lines += [f"exported: {', '.join(map(short_path, result.exported))}"] * bool(result.exported)
    run = run_word(result.picture.parents[1])
    commands = {
        f"fledge chat {run}": "talk with it, about cheap fish or a warm window",
        "fledge plot demo-dpo demo-ppo demo-grpo": "compare the methods",
        f"fledge export {run} --to gguf --out gguf": "take it to llama.cpp",
        "fledge align tasks": "what else a small model can learn",
        "fledge align sft --init demo-base --data FILE": "your own conversations",
    }
    return "\n".join([*lines, "", "next steps:", *(f"  {line:<48}{what}" for line, what in commands.items())])


def describe_result(result: "DemoResult") -> str:
    before, after = (quote(sample.text) for sample in result.samples)
    return f"""
what it generates from the counts alone, before the first step:
{before}

what it generates after {result.step:,} steps:
{after}

{format_duration(result.seconds)} in all. The metrics: {short_path(result.picture)}
Everything else about this run: {short_path(Path(result.folder))}

next steps:
{next_commands(run_word(Path(result.folder)))}"""


def next_commands(run: str) -> str:
    commands = {
        f"fledge generate {run} --prompt 'class'": "generate more text",
        f"fledge eval {run}": "measure it on text that it has not seen",
        "fledge train python --minutes 15": "train longer",
        "fledge train my-notes/": "train on your own text",
        "fledge --help": "all commands",
    }
    return "\n".join(f"  {command:<42}{purpose}" for command, purpose in commands.items())


def quote(text: str, lines: int = 12) -> str:
    return "\n".join(f"    | {line:.86}" for line in printable(text).splitlines()[:lines])
