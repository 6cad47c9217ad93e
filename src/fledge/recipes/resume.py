"""fledge resume: go on exactly where a run stopped, bit for bit as if it never had."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fledge.base import machine as machines
from fledge.base.company import ALONE, Company, joined
from fledge.base.errors import UserError
from fledge.base.files import remove_partials
from fledge.base.settings import merge, read_overrides, to_layer, to_toml
from fledge.checkpoint import run as run_folder
from fledge.checkpoint import store
from fledge.checkpoint.run import Run
from fledge.checkpoint.state import State
from fledge.checkpoint.store import Checkpoint
from fledge.datasets.shards import Dataset
from fledge.recipes.assembly import refuse_uneven
from fledge.recipes.changes import changes, refuse_changes
from fledge.recipes.launch import launch, refuse_idle
from fledge.recipes.outcome import Outcome, tell
from fledge.recipes.prepare import open_named
from fledge.recipes.proof import Proof, in_words, prove
from fledge.recipes.screen import report, say
from fledge.recipes.settings import Settings, settle
from fledge.recipes.training import Training, held
from fledge.tokens.tokenizer import fingerprint
from fledge.track.sinks import rewind


def run(args: argparse.Namespace) -> None:
    refuse_idle(args)
    if args.verify and (args.overrides or args.launcher):
        raise UserError("--verify looks at a checkpoint as it is", "leave settings and --launcher out")
    if args.launcher:
        tell(launched(args), as_json=args.json)
        return
    with joined() as company:
        if args.verify:
            proof = prove_run(args.run, args.runs, company)
            report(asdict(proof), as_json=args.json, text=in_words(proof))
            return
        tell(resumed(args, company), as_json=args.json)


def launched(args: argparse.Namespace) -> Outcome:
    name, _ = run_folder.split_reference(args.run)
    settings = settle(merge(run_folder.find(name, args.runs).config(), read_overrides(args.overrides)))
    return launch(resumed, args, name, settings)


def resumed(args: argparse.Namespace, company: Company) -> Outcome:
    return resume(args.run, args.runs, company, args.overrides, allow_changes=args.allow_changes)


def resume(
    reference: str,
    runs: Path,
    company: Company = ALONE,
    overrides: Sequence[str] = (),
    *,
    allow_changes: bool = False,
) -> Outcome:
    name, which = run_folder.split_reference(reference)
    if company.tell(lambda: "again" if company.noted(reference) else ""):
        which = "latest"  # processes that were started again go on from where they had come to
    run = run_folder.find(name, runs)
    edited = run.changed() == [run_folder.CONFIG]
    if not edited:
        run.refuse_changed()
    settings = settle(merge(run.config(), read_overrides(list(overrides))))
    if settings.train.epochs is not None:
        raise UserError("a run that goes on counts steps", "say --train.steps instead of train.epochs")
    dataset = its_text(run, settings, company)
    machine = machines.choose(settings.train.device, settings.train.dtype, company)
    with held(run, company):
        found = company.tell(lambda: begun_from(run, which, settings, dataset, edited=edited, allow=allow_changes))
        training = Training(run, settings, machine, dataset)
        state = training.load(found) if found else None
        company.tell(lambda: rewound(run, state, settings, edited=edited))  # nothing of the run was changed before
        company.note(reference)
        return training.go(state)


def prove_run(reference: str, runs: Path, company: Company) -> Proof:
    name, which = run_folder.split_reference(reference)
    run = run_folder.find(name, runs)
    run.refuse_changed()
    settings = settle(run.config())
    dataset = its_text(run, settings, company)
    machine = machines.choose(settings.train.device, settings.train.dtype, company)
    with held(run, company):
        found = company.tell(lambda: store.find(run.checkpoints, which)[0].folder.name)
        return prove(Training(run, settings, machine, dataset), found)


def its_text(run: Run, settings: Settings, company: Company) -> Dataset:
    """What the run was trained on, unchanged."""
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
            f"the dataset '{dataset.folder}' is not the one that '{run.name}' was trained on:"
            f" {dataset.fingerprint[:12]}… instead of {run.fact('dataset_sha256')[:12]}…",
            "put the old one back, or train a new run on the new text",
        )
    return dataset


def begun_from(run: Run, which: str, settings: Settings, dataset: Dataset, *, edited: bool, allow: bool) -> str:
    """The name of the checkpoint to go on from; none is the very beginning. Refused where anything is not right."""
    for folder in (run.folder, run.checkpoints):  # nobody else would, where it was killed in its last moment
        remove_partials(folder)
    checkpoint = starting_point(run, which, settings.train.steps)
    agreed(run, checkpoint, settings, dataset, edited=edited, allow=allow)
    return checkpoint.folder.name if checkpoint else ""


def agreed(
    run: Run, checkpoint: Checkpoint | None, settings: Settings, dataset: Dataset, *, edited: bool, allow: bool
) -> None:
    """Whatever has been changed is told, and refused unless it may be, and is meant."""
    made_of = store.read_progress(checkpoint).get("about") if checkpoint else None
    if made_of and made_of["tokenizer_sha256"] != fingerprint(dataset.tokenizer):
        raise UserError(f"'{run.name}' has another tokenizer than its checkpoint", "restore its tokenizer.json")
    wanted, before = to_layer(settings), made_of and made_of["settings"]
    if not edited:  # what has its seal was agreed to already, maybe after the checkpoint was made
        own = to_layer(settle(run.config()))
        found = changes(own, wanted)
        found += [each for each in changes(before or own, wanted) if not each.allowed and each not in found]
    elif before:
        found = changes(before, wanted)
    else:
        if not allow:
            run.refuse_changed()
        found = []  # nobody knows what it was, and somebody takes that upon himself
    refuse_changes(run.name, found, allow=allow)


def starting_point(run: Run, which: str, steps: int) -> Checkpoint | None:
    """None for a run that was stopped before it had saved anything."""
    if which == "latest" and not store.folders(run.checkpoints):
        if (init := run.facts().get("init")) is None:
            return None
        raise UserError(f"'{run.name}' has lost its checkpoints", f"begin again: fledge train --init {init}")
    checkpoint, damaged = store.find(run.checkpoints, which)
    for what in damaged:
        say(f"warning: {what}; it is passed over")
    if checkpoint.step >= steps and not checkpoint.owed:
        longer = f"to make it longer: fledge resume {run.name} --train.steps {2 * steps} --allow-changes"
        raise UserError(f"'{run.name}' is finished: it has made all its {steps} steps", longer)
    return checkpoint


def rewound(run: Run, state: State | None, settings: Settings, *, edited: bool) -> str:
    """Everything later is taken back, and settings that were agreed to are the run's own."""
    if (config := to_toml(settings)) != to_toml(settle(run.config())) or edited:
        run.take_on(config)
    step, owed = (state.step, state.owed is not None) if state else (-1, False)
    later = ", ".join(str(each.step) for each in store.complete(run.checkpoints) if each.step > step)
    store.remove_later(run.checkpoints, step)
    # What a step is owed will be done and written again, so what it left half-done goes too.
    rewind(run.folder, step - owed)
    where = f"going on with '{run.name}' after step {step}" if state else f"'{run.name}' begins anew"
    say(where + (f"; what was saved later is taken back: {later}" if later else ""))
    return ""
