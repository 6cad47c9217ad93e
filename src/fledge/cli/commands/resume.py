"""fledge resume: continue a run exactly where it stopped."""

import argparse
from typing import TYPE_CHECKING

from fledge.cli.arguments import (
    Parser,
    add_launcher_arguments,
    add_run_argument,
    add_settings_argument,
    refuse_ray_arguments,
)
from fledge.cli.output import print_train_result, report
from fledge.core.config import read_overrides
from fledge.core.errors import UserError

if TYPE_CHECKING:
    from fledge.insight.verify_checkpoint import Verification

EXAMPLES = (
    "fledge resume hamlet",
    "fledge resume hamlet --verify",
    "fledge resume hamlet --train.steps 4000 --allow-changes",
    "fledge resume hamlet --launcher ray --workers 2",
)
TAKES_SETTINGS = True


def add_arguments(parser: Parser) -> None:
    add_run_argument(parser)
    allow = "accept settings that differ from the checkpoint's; without it they are listed and refused"
    parser.add_argument("--allow-changes", action="store_true", help=allow)
    verify = "check that loading and saving the checkpoint again gives the same bits, and exit"
    parser.add_argument("--verify", action="store_true", help=verify)
    trust = "execute the reward functions (rewards/*.py) of a run that came from elsewhere"
    parser.add_argument("--trust-reward", action="store_true", help=trust)
    add_launcher_arguments(parser)
    add_settings_argument(parser, "a changed setting, e.g. --train.steps 4000; see --allow-changes")


def run(args: argparse.Namespace) -> None:
    from fledge.core.distributed import init_distributed
    from fledge.recipes.resume import resume, resume_with_ray, verify

    refuse_ray_arguments(args)
    if args.verify and (args.overrides or args.launcher):
        raise UserError("--verify checks a checkpoint as it is", "leave out settings and --launcher")
    overrides, allow, trust = read_overrides(args.overrides), args.allow_changes, args.trust_reward
    if args.launcher:
        options = {"workers": args.workers, "address": args.address}
        result = resume_with_ray(args.run, overrides, args.runs, allow_changes=allow, trust_reward=trust, **options)
        print_train_result(result, as_json=args.json)
        return
    with init_distributed() as world:  # only its main process prints
        if args.verify:
            verified = verify(args.run, args.runs, trust_reward=trust, world=world)
            report(verified, as_json=args.json, text=describe_verification(verified))
            return
        options = {"allow_changes": allow, "trust_reward": trust, "begun": args.begun}
        result = resume(args.run, overrides, args.runs, **options, world=world)
        print_train_result(result, as_json=args.json)


def describe_verification(verified: "Verification") -> str:
    lines = [f"'{verified.run}', {verified.checkpoint}: loaded, saved and loaded again"]
    lines += [f"  {name:<26}{digest[:16]}…  identical" for name, digest in verified.files.items()]
    content = f"{verified.numbers:,} numbers in {verified.tensors} tensors, and all other state"
    return "\n".join(
        [
            *lines,
            f"{content} are bit-identical",
            f"next: fledge resume {verified.reference}, or fledge generate {verified.reference}",
        ]
    )
