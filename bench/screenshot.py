"""The live view of a run as a picture, for the documents: what `fledge watch` shows in a terminal of this size.

python bench/screenshot.py RUN OUT.svg [--columns 100] [--lines 40] [--light] [--until STEP]
"""

import argparse
import io
import math
import re
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, SVG_EXPORT_THEME

from fledge.recipes.watch import open_watched, timed
from fledge.tracking.events import Ended
from fledge.tracking.follow import EventFile
from fledge.tracking.live_view import LiveView


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("out", type=Path)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--lines", type=int, default=40)
    parser.add_argument("--light", action="store_true", help="dark letters on a light background")
    parser.add_argument("--until", type=float, default=math.inf, metavar="STEP", help="as it was at this step")
    args = parser.parse_args()
    run = open_watched(args.run, Path("runs"))
    size = {"width": args.columns, "height": args.lines}
    console = Console(record=True, file=io.StringIO(), force_terminal=True, **size)
    view = LiveView(console)
    for at, event in timed(EventFile(run.folder).poll()):
        if event.step <= args.until and (args.until == math.inf or not isinstance(event, Ended)):
            view.progress.update(event, at)
    console.print(view.draw())
    theme = DEFAULT_TERMINAL_THEME if args.light else SVG_EXPORT_THEME
    args.out.write_text(with_even_braille(console.export_svg(title=f"fledge watch {run.name}", theme=theme)))


def with_even_braille(picture: str) -> str:
    """Few fonts have braille letters, and those of another font are wider than a space: beside them, spaces are too."""
    picture = re.sub(r' clip-path="url\(#[^"]*-line-\d+\)"', "", picture)  # it cuts the highest dots off
    return re.sub(r">[^<]*[\u2801-\u28ff][^<]*<", lambda text: text[0].replace("&#160;", "\u2800"), picture)


if __name__ == "__main__":
    main()
