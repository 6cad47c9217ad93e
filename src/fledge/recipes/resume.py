"""fledge resume: go on exactly where a run stopped, bit for bit as if it never had."""

import argparse
from dataclasses import asdict
from pathlib import Path

from fledge.base import machine as machines
from fledge.base.company import ALONE, Company, joined
from fledge.base.errors import UserError
from fledge.checkpoint import run as run_folder
from fledge.checkpoint import store
from fledge.checkpoint.run import Run
from fledge.recipes.prepare import open_named
from fledge.recipes.screen import report, say
from fledge.recipes.settings import settle
from fledge.recipes.training import Outcome, Training, closing_words, held, refuse_uneven
from fledge.track.sinks import rewind


def run(args: argparse.Namespace) -> None:
    with joined() as company:
        outcome = resume(args.run, args.runs, company)
        report(asdict(outcome), as_json=args.json, text=closing_words(outcome))


def resume(reference: str, runs: Path, company: Company = ALONE) -> Outcome:
    name, which = run_folder.split_reference(reference)
    run = run_folder.find(name, runs)
    run.refuse_changed()
    settings = settle(run.config())
    if "imported" in run.facts():
        raise UserError(
            f"'{run.name}' was imported: there is no training to go on with",
            f"train on from it: fledge train --init {run.name} --data.corpus my-notes/",
        )
    if settings.data.path is None:
        raise UserError(f"'{run.folder}' does not say what it was trained on: its config.toml is damaged", "restore it")
    refuse_uneven(settings.train.batch, company)
    with company.in_turn("text"):
        dataset = open_named(settings.data.path, run.tokenizer)
    if dataset.fingerprint != run.fact("dataset_sha256"):
        raise UserError(
            f"the dataset '{dataset.folder}' is not the one that '{run.name}' was trained on",
            "put the old one back, or train a new run on the new text",
        )
    machine = machines.choose(settings.train.device, settings.train.dtype, company)
    with held(run, company):
        found = company.tell(lambda: rewound(run, which, settings.train.steps))
        training = Training(run, settings, machine, dataset)
        return training.go(training.load(found) if found else None)


def rewound(run: Run, which: str, steps: int) -> str:
    """The checkpoint to go on from, after everything later has been taken back; none is the very beginning."""
    good, damaged = store.listed(run.checkpoints)
    for what in damaged:
        say(f"warning: {what}; it is passed over")
    checkpoint = store.find(run.checkpoints, which)[0] if good or which != "latest" else None
    if checkpoint and checkpoint.step >= steps and not checkpoint.owed:
        raise UserError(f"'{run.name}' is finished: it has made all its {steps} steps", "train a new run")
    step = checkpoint.step if checkpoint else -1
    store.remove_later(run.checkpoints, step)
    # What a step is owed will be done and written again, so what it left half-done goes too.
    rewind(run.folder, step - checkpoint.owed if checkpoint else -1)
    say(f"going on with '{run.name}' after step {step}" if checkpoint else f"'{run.name}' begins anew")
    return checkpoint.folder.name if checkpoint else ""
