"""fledge eval: how good is a model on text that it has not learned from?"""

import argparse
from dataclasses import asdict

from fledge.base import machine as machines
from fledge.base.company import Company, joined
from fledge.base.errors import UserError
from fledge.base.progress import progress
from fledge.checkpoint import run as run_folder
from fledge.evaluate.loss import judge
from fledge.recipes.prepare import open_named
from fledge.recipes.screen import report, say
from fledge.recipes.settings import settle
from fledge.tokens.tokenizer import byte_lengths, fingerprint


def run(args: argparse.Namespace) -> None:
    with joined() as company:
        _run(args, company)


def _run(args: argparse.Namespace, company: Company) -> None:
    device = machines.choose_device(args.device).value
    loaded = run_folder.load(args.run, args.runs)
    for warning in loaded.warnings:
        say(f"warning: {warning}")
    settings = settle(loaded.run.config())
    data = args.data or settings.data.path
    if data is None:
        raise UserError(
            f"'{loaded.run.name}' was not trained here, so no dataset is its own",
            f"name one, made with --tokenizer {loaded.run.folder / 'tokenizer.json'}: --data DIR",
        )
    with company.in_turn("text"):
        dataset = open_named(str(data), lambda: loaded.tokenizer)
    if fingerprint(dataset.tokenizer) != fingerprint(loaded.tokenizer):
        raise UserError(
            f"'{dataset.folder}' was made with another tokenizer than '{loaded.run.name}'",
            f"prepare it with --tokenizer {loaded.run.folder / 'tokenizer.json'}",
        )
    # In the precision of the training, where the hardware has it: then the figures are those of the run.
    dtype = settings.train.dtype if machines.has_bf16_units(device) else "float32"
    machine = machines.choose(device, dtype, company)
    found = judge(
        loaded.model.to(machine.device),
        dataset.split(args.split),
        byte_lengths(loaded.tokenizer),
        machine,
        watch=lambda windows: progress(windows, "judging"),
    )
    answer = {"run": loaded.run.name, "step": loaded.checkpoint.step, **asdict(found), "dtype": machine.dtype}
    words = (
        f"{loaded.run.name} at step {loaded.checkpoint.step:,}, {found.split} split:"
        f" {found.tokens:,} tokens in windows of {found.context}\n"
        f"  loss           {found.loss:.4f} nats per token\n"
        f"  perplexity     {found.perplexity:.3f}\n"
        f"  bits per byte  {found.bits_per_byte:.4f}\n"
        f"  accuracy       {found.accuracy:.4f}  (share of tokens that were the first guess)"
    )
    report(answer, as_json=args.json, text=words)
