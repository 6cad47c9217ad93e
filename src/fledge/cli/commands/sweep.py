"""fledge sweep: search for the best settings with many trainings."""

import argparse

from fledge.cli.arguments import Parser, add_engine_arguments, positive_int

EXAMPLES = (
    "fledge sweep rates.toml",
    "fledge sweep rates.toml --trials 40 --workers 4       interrupted or finished: the same command continues",
    "fledge plot rates/trial-0007 rates/trial-0012",
    "",
    "rates.toml:",
    "  [sweep]",
    '  preset = "demo"              # or a FILE.toml',
    "  trials = 20",
    "  seed = 1",
    '  metric = "val_loss"          # or "val_bits_per_byte", to compare tokenizers',
    "  [space]",
    '  "optim.lr" = {low = 1e-4, high = 1e-2, log = true}',
    '  "model.n_layer" = [2, 4, 6]',
    "  [train]                      # and any other settings, the same for all trials",
    "  steps = 200",
)


def add_arguments(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE.toml", help="what to search: see below")
    trials = "number of trials (default: as in the file, or 20)"
    parser.add_argument("--trials", type=positive_int, metavar="N", help=trials)
    parser.add_argument("--run", metavar="NAME", help="name of the sweep (default: the file's); its runs are in NAME/")
    workers = "concurrent trials (default: 1; then the result is reproducible)"
    parser.add_argument("--workers", type=positive_int, default=1, metavar="N", help=workers)
    add_engine_arguments(parser, "processes")


def run(args: argparse.Namespace) -> None:
    from fledge.recipes import sweep

    sweep.run(args)
