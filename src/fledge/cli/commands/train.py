"""fledge train: train a model."""

import argparse

from fledge.cli.arguments import Parser, add_launcher_arguments, add_settings_argument, refuse_ray_arguments
from fledge.cli.output import print_train_result, report
from fledge.core.config import read_overrides, to_layer, to_toml

EXAMPLES = (
    "fledge train demo",
    "fledge train nanogpt-shakespeare-cpu --data.corpus input.txt --run hamlet",
    "fledge train demo --model.n_layer 8 --optim.lr 2e-3",
    "fledge train modern --model.size 30M",
    "fledge train --init gpt2 --data.corpus my-notes/",
    "fledge train demo --print-config > mine.toml     every setting, explained",
    "torchrun --nproc-per-node 4 -m -- fledge train modern",
    "fledge train modern --launcher ray --workers 4 --run hamlet",
)
TAKES_SETTINGS = True


def add_arguments(parser: Parser) -> None:
    preset = "what to train: see 'fledge presets'; optional with --init"
    parser.add_argument("preset", nargs="?", metavar="PRESET|FILE.toml", help=preset)
    parser.add_argument("--init", metavar="RUN", help="start from the weights and tokenizer of this run")
    parser.add_argument("--run", metavar="NAME", help="name of the new run (default: the preset's, numbered)")
    parser.add_argument("--print-config", action="store_true", help="print every setting with its meaning, and exit")
    parser.add_argument("--profile", action="store_true", help="profile a few steps into RUN/profile/")
    add_launcher_arguments(parser)
    add_settings_argument(parser, "any setting, e.g. --train.steps 500")


def run(args: argparse.Namespace) -> None:
    from fledge.core.distributed import init_distributed
    from fledge.recipes.train import resolve_request, train, train_with_ray

    refuse_ray_arguments(args)
    overrides = read_overrides(args.overrides)
    if args.launcher and not args.print_config:
        options = {"name": args.run, "init": args.init, "profile": args.profile}
        print_train_result(
            train_with_ray(args.preset, overrides, args.runs, **options, workers=args.workers, address=args.address),
            as_json=args.json,
        )
        return
    with init_distributed() as world:  # only its main process prints
        if args.print_config:
            settings = resolve_request(args.preset, overrides, args.runs, args.init).settings
            report(to_layer(settings), as_json=args.json, text=to_toml(settings, explain=True))
            return
        result = train(
            args.preset, overrides, args.runs, name=args.run, init=args.init, profile=args.profile, world=world
        )
        print_train_result(result, as_json=args.json)
