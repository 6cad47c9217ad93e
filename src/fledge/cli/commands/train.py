"""fledge train: train a model."""

import argparse

from fledge.cli.arguments import (
    Parser,
    add_launcher_arguments,
    add_portable_argument,
    add_settings_argument,
    given_settings,
    refuse_ray_arguments,
)
from fledge.cli.output import print_train_result, report
from fledge.core.config import to_layer, to_toml

EXAMPLES = (
    "fledge train my-notes/                           your own text, in about five minutes",
    "fledge train book.txt 'letters/*.md' --minutes 30",
    "fledge train nanogpt-shakespeare-cpu input.txt --data.val 0.1 --run hamlet",
    "fledge train demo --model.n_layer 8 --optim.lr 2e-3",
    "fledge train modern --model.size 30M",
    "fledge train my-notes/ --init gpt2",
    "fledge train demo --print-config > mine.toml     every setting, explained",
    "torchrun --nproc-per-node 4 -m -- fledge train modern",
    "fledge train modern --launcher ray --workers 4 --run hamlet",
)
TAKES_SETTINGS = True


def add_arguments(parser: Parser) -> None:
    words = "text (file, folder, glob, URL, …), preset, or FILE.toml"
    parser.add_argument("words", nargs="*", metavar="TEXT|PRESET", help=words)
    minutes = "choose size and steps for this time; text alone: 5"
    parser.add_argument("--minutes", metavar="N", help=minutes)
    parser.add_argument("--init", metavar="RUN", help="start from the weights and tokenizer of this run")
    parser.add_argument("--run", metavar="NAME", help="name of the new run (default: as the preset or text)")
    parser.add_argument("--print-config", action="store_true", help="print every setting with its meaning, and exit")
    parser.add_argument("--profile", action="store_true", help="profile a few steps into RUN/profile/")
    add_launcher_arguments(parser)
    add_portable_argument(parser)
    add_settings_argument(parser, "any setting, e.g. --train.steps 500")


def run(args: argparse.Namespace) -> None:
    from fledge.core.distributed import init_distributed
    from fledge.planning.budget import parse_minutes
    from fledge.recipes.request import fit_to_time, resolve_request
    from fledge.recipes.train import train, train_with_ray
    from fledge.settings.layers import without_effect

    refuse_ray_arguments(args)
    overrides = given_settings(args)
    minutes = None if args.minutes is None else parse_minutes(args.minutes) / 60
    options = {"minutes": minutes, "name": args.run, "init": args.init, "profile": args.profile}
    if args.launcher and not args.print_config:
        ray = {"workers": args.workers, "address": args.address}
        result = train_with_ray(args.words, overrides, args.runs, **options, **ray)
        print_train_result(result, as_json=args.json)
        return
    with init_distributed() as world:  # only its main process prints
        if args.print_config:
            request = resolve_request(args.words, overrides, args.runs, args.init)
            settings = fit_to_time(request, minutes, args.runs, world).settings
            omit = without_effect(settings)
            text = to_toml(settings, explain=True, omit=omit)
            report(to_layer(settings, omit=omit), as_json=args.json, text=text)
            return
        result = train(args.words, overrides, args.runs, **options, world=world, begun=args.begun)
        print_train_result(result, as_json=args.json)
