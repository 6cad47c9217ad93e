"""fledge plot: draw the metrics of one or several runs: loss, learning rate, gradient norm, speed, …"""

import argparse
from pathlib import Path

from fledge.cli.arguments import Parser, add_run_argument
from fledge.cli.output import report
from fledge.core.formatting import short_path

EXAMPLES = (
    "fledge plot hamlet",
    "fledge plot a b c --x tokens --out compared/",
    "fledge plot hamlet --format pdf,svg --smooth 0.9 --log x",
)


def add_arguments(parser: Parser) -> None:
    add_run_argument(parser, many=True, checkpoint=False)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: plots/ of the first run)")
    axis = "the x axis: step, tokens trained on, or time of training without its pauses (default: step)"
    parser.add_argument("--x", choices=["step", "tokens", "time"], default="step", metavar="AXIS", help=axis)
    parser.add_argument("--log", choices=["x", "y", "xy"], default="", metavar="AXES", help="logarithmic: x, y or xy")
    smooth = "smooth training curves: an exponential moving average with this weight, 0 to 1, over the raw curve"
    parser.add_argument("--smooth", type=float, default=0.0, metavar="W", help=smooth)
    formats = "png, svg, pdf, or several: pdf,svg (default: png)"
    parser.add_argument("--format", default="png", metavar="A,B", help=formats)


def run(args: argparse.Namespace) -> None:
    from fledge.recipes.plot import plot
    from fledge.tracking.plots import PlotStyle

    style = PlotStyle(args.x, args.log, args.smooth, tuple(dict.fromkeys(args.format.lower().split(","))))
    figures = plot(args.references, args.runs, args.out, style=style).figures
    report({"figures": figures}, as_json=args.json, text="\n".join(map(short_path, figures)))
