"""fledge studio: the web pages."""

import argparse
import os
import sys
import webbrowser
from importlib.util import find_spec
from pathlib import Path

from fledge.cli.arguments import Parser, add_device_argument
from fledge.core.errors import UserError
from fledge.core.progress import notice

EXAMPLES = (
    "fledge studio",
    "fledge studio --runs elsewhere/runs --port 0",
    "ssh -L 7860:localhost:7860 gpu-box fledge studio --no-browser",
)
NEEDED = ("fastapi", "uvicorn", "pydivsufsort")


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--port", type=int, default=7860, help="0: any free one (default: 7860)")
    parser.add_argument("--no-browser", action="store_true", help="print the URL only")
    file = "file with the token that pages must have (default: one is made, and kept for this user)"
    parser.add_argument("--token-file", type=Path, metavar="FILE", help=file)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    host = "further name of this machine in a Host header, as gpu.example.org; may be repeated"
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME", help=host)
    add_device_argument(parser)


def run(args: argparse.Namespace) -> None:
    if missing := [name for name in NEEDED if not find_spec(name)]:
        raise UserError(f"fledge studio needs {', '.join(missing)}", "pip install 'fledge[studio]'")
    from fledge.studio.start import start_studio

    def ready(url: str) -> None:
        print(url, flush=True)
        notice("the studio is at this address; Ctrl-C stops it, and runs that it started go on")
        if not args.no_browser and has_screen():
            webbrowser.open(url)

    start_studio(
        args.runs,
        host=args.host,
        hosts=frozenset(args.allow_host),
        port=args.port,
        token_file=args.token_file,
        device=args.device,
        ready=ready,
    )


def has_screen() -> bool:
    """False over ssh, where a browser in the terminal would take the place of the studio's own lines."""
    if sys.platform in ("darwin", "win32"):
        return "SSH_CONNECTION" not in os.environ
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
