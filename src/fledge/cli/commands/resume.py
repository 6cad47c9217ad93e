"""fledge resume: continue a run exactly where it stopped."""

import argparse

from fledge.cli.arguments import Parser, add_launcher_arguments, add_run_argument, add_settings_argument

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
    add_launcher_arguments(parser)
    add_settings_argument(parser, "a changed setting, e.g. --train.steps 4000; see --allow-changes")


def run(args: argparse.Namespace) -> None:
    from fledge.recipes import resume

    resume.run(args)
