"""fledge serve: an OpenAI-compatible server for one or more models."""

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from fledge.cli.arguments import Parser, add_device_argument, add_dtype_argument, add_run_argument, positive_int
from fledge.core.errors import UserError
from fledge.core.progress import notice

if TYPE_CHECKING:
    from fledge.server.models import ServedModel

EXAMPLES = (
    "fledge serve hamlet                         then: curl http://127.0.0.1:8000/v1/models",
    "fledge serve hamlet hamlet@1000 --port 0    two models; the first line on stdout is the URL",
    "fledge serve --host 0.0.0.0 --token-file token",
)
NEEDED = ("fastapi", "uvicorn", "prometheus_client")


def add_arguments(parser: Parser) -> None:
    add_run_argument(parser, many=True)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one (default: 8000)")
    file = "file with the token that clients must send; required where other machines can call the server"
    parser.add_argument("--token-file", type=Path, metavar="FILE", help=file)
    host = "further name of this server in a Host header, as gpu.example.org; may be repeated"
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME", help=host)
    origin = "web page that may call the server, as http://localhost:3000; may be repeated"
    parser.add_argument("--allow-origin", action="append", default=[], metavar="URL", help=origin)
    slots = "texts that a model writes at the same time (default: 32)"
    parser.add_argument("--slots", type=positive_int, default=32, metavar="N", help=slots)
    queue = "texts that may wait; beyond it, clients are told to try again (default: 512)"
    parser.add_argument("--queue", type=int, default=512, metavar="N", help=queue)
    add_dtype_argument(parser)
    add_device_argument(parser)


def run(args: argparse.Namespace) -> None:
    if missing := [name for name in NEEDED if not find_spec(name)]:
        raise UserError(f"fledge serve needs {', '.join(missing)}", "pip install 'fledge[serve]'")
    from fledge.server.start import start_server
    from fledge.web.access import Access, known_origins
    from fledge.web.serving import read_token

    token = read_token(args.token_file, args.host)
    access = Access(args.host, frozenset(args.allow_host), known_origins(args.allow_origin), token)

    def ready(url: str, models: "list[ServedModel]") -> None:
        print(url, flush=True)
        notice(describe(models, args.queue, token))

    start_server(
        args.references or [None],
        args.runs,
        access,
        args.port,
        ready,
        slots=args.slots,
        queue=args.queue,
        device=args.device,
        dtype=args.dtype,
    )


def describe(models: "list[ServedModel]", queue: int, token: str | None) -> str:
    lines = [
        f"model {model.name}: context {model.context:,}, {model.worker.engine.slots} slots,"
        f" {'its chat template' if model.template else 'no chat template: messages are continued as one text'}"
        for model in models
    ]
    access = "with the token only" if token else "without a token, from this machine only"
    return "\n".join([*lines, f"queue {queue:,}; {access}; Ctrl-C stops the server"])
