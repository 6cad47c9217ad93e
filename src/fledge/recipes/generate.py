"""fledge generate: a model writes on from a prompt, and the text appears as it comes."""

import argparse
import sys

from fledge.base import machine as machines
from fledge.base.errors import UserError
from fledge.checkpoint import run as run_folder
from fledge.generate.engine import complete
from fledge.generate.sampling import strategies
from fledge.recipes.screen import report, say
from fledge.recipes.settings import settle
from fledge.track.terminal import printable


def run(args: argparse.Namespace) -> None:
    if args.tokens < 0:
        raise UserError(f"--tokens cannot be {args.tokens}", "it takes a whole number from 0 up")
    if not 0 <= args.seed < 2**63:
        raise UserError(f"--seed cannot be {args.seed}", "it takes a whole number from 0 up")
    row = strategies(0.0 if args.greedy else args.temperature, args.top_k, args.top_p)
    # Text is drawn in fp32: one sequence is bound by memory, and the same seed then writes the same text everywhere.
    machine = machines.choose(args.device, "float32")
    loaded = run_folder.load(args.run, args.runs, machine.device)
    for warning in loaded.warnings:
        say(f"warning: {warning}")
    prompt = args.prompt
    if prompt is None:
        prompt = settle(loaded.run.config()).track.prompt or ""
    elif prompt == "-":
        prompt = sys.stdin.read()
    pieces = complete(loaded.model, loaded.tokenizer, prompt, row, machine, args.tokens, args.seed)
    if args.json:
        answer = {"run": loaded.run.name, "step": loaded.checkpoint.step, "prompt": prompt, "text": "".join(pieces)}
        report(answer, as_json=True, text="")
        return
    show = printable if sys.stdout.isatty() else str
    sys.stdout.write(show(prompt))
    for piece in pieces:
        sys.stdout.write(show(piece))
        sys.stdout.flush()
    sys.stdout.write("\n")
