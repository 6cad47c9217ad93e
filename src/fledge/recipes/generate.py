"""fledge generate: a model writes on from a prompt, and the text appears as it comes."""

import argparse
import sys

from fledge.cli.output import report
from fledge.core import device as machines
from fledge.core.errors import UserError
from fledge.core.formatting import printable
from fledge.inference.generate import stream_text
from fledge.inference.sampler import sampling_strategies
from fledge.runs.run_folder import open_run
from fledge.settings.pipeline import validated


def run(args: argparse.Namespace) -> None:
    if args.tokens < 0:
        raise UserError(f"--tokens cannot be {args.tokens}", "it takes a whole number from 0 up")
    if not 0 <= args.seed < 2**63:
        raise UserError(f"--seed cannot be {args.seed}", "it takes a whole number from 0 up")
    row = sampling_strategies(0.0 if args.greedy else args.temperature, args.top_k, args.top_p)
    # Text is drawn in fp32: one sequence is bound by memory, and the same seed then writes the same text everywhere.
    machine = machines.choose_machine(args.device, "float32")
    loaded = open_run(args.run, args.runs, default="best").load(machine.device)
    prompt = args.prompt
    if prompt is None:
        prompt = validated(loaded.run.config()).track.prompt or ""
    elif prompt == "-":
        prompt = sys.stdin.read()
    pieces = stream_text(loaded.model, loaded.tokenizer, prompt, row, machine, args.tokens, args.seed)
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
