"""fledge resume: go on exactly where a run stopped, bit for bit as if it never had."""

import argparse
from dataclasses import asdict
from pathlib import Path

from fledge.base import machine as machines
from fledge.base.errors import UserError
from fledge.base.files import remove_partials
from fledge.checkpoint import run as run_folder
from fledge.checkpoint import store
from fledge.checkpoint.run import Run
from fledge.checkpoint.state import State
from fledge.recipes.prepare import open_named
from fledge.recipes.screen import report, say
from fledge.recipes.settings import settle
from fledge.recipes.train import closing_words
from fledge.recipes.training import Outcome, Training
from fledge.track.sinks import rewind


def run(args: argparse.Namespace) -> None:
    outcome = resume(args.run, args.runs)
    report(asdict(outcome), as_json=args.json, text=closing_words(outcome))


def resume(reference: str, runs: Path) -> Outcome:
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
    dataset = open_named(settings.data.path, run.tokenizer)
    if dataset.fingerprint != run.fact("dataset_sha256"):
        raise UserError(
            f"the dataset '{dataset.folder}' is not the one that '{run.name}' was trained on",
            "put the old one back, or train a new run on the new text",
        )
    machine = machines.choose(settings.train.device, settings.train.dtype)
    with run.alone():
        state = rewound(run, which, settings.train.steps)
        return Training(run, settings, machine, dataset).go(state)


def rewound(run: Run, which: str, steps: int) -> State | None:
    """The state to go on from, after everything later has been taken back; None is the very beginning."""
    for folder in (run.folder, run.checkpoints):  # nobody else would, where it was killed in its last moment
        remove_partials(folder)
    good, damaged = store.listed(run.checkpoints)
    for what in damaged:
        say(f"warning: {what}; it is passed over")
    checkpoint = store.find(run.checkpoints, which)[0] if good or which != "latest" else None
    state = store.load(checkpoint) if checkpoint else None
    if state and state.step >= steps and state.owed is None:
        raise UserError(f"'{run.name}' is finished: it has made all its {steps} steps", "train a new run")
    store.remove_later(run.checkpoints, state.step if state else -1)
    # What a step is owed will be done and written again, so what it left half-done goes too.
    rewind(run.folder, state.step - (state.owed is not None) if state else -1)
    say(f"going on with '{run.name}' after step {state.step}" if state else f"'{run.name}' begins anew")
    return state
