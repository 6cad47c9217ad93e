"""fledge resume: go on exactly where a run stopped, bit for bit as if it never had."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from fledge.checkpoint import store
from fledge.checkpoint.state import State
from fledge.checkpoint.store import Checkpoint
from fledge.cli.output import report
from fledge.cluster.train import train_on_ray
from fledge.core import device as machines
from fledge.core.config import merge, read_overrides, to_layer, to_toml
from fledge.core.distributed import SINGLE_PROCESS, World, init_distributed
from fledge.core.errors import UserError
from fledge.core.files import remove_partials
from fledge.core.progress import notice
from fledge.datasets.cache import open_dataset_at
from fledge.datasets.shards import Dataset
from fledge.recipes.train_result import print_result, refuse_ray_options
from fledge.runs.config_diff import config_changes, refuse_changes
from fledge.runs.run_folder import CONFIG, RunFolder, open_run
from fledge.settings.pipeline import validated
from fledge.tokenizers.base import fingerprint
from fledge.tracking.rewind import rewind
from fledge.training.config import Settings
from fledge.training.result import TrainResult, saved_result
from fledge.training.setup import check_batch_divisible
from fledge.training.trainer import Trainer
from fledge.training.verify import Verification, in_words, verify_checkpoint


def run(args: argparse.Namespace) -> None:
    refuse_ray_options(args)
    if args.verify and (args.overrides or args.launcher):
        raise UserError("--verify looks at a checkpoint as it is", "leave settings and --launcher out")
    if args.launcher:
        print_result(launched(args), as_json=args.json)
        return
    with init_distributed() as world:
        if args.verify:
            proof = verify_run(args.run, args.runs, world)
            report(asdict(proof), as_json=args.json, text=in_words(proof))
            return
        print_result(resumed(args, world), as_json=args.json)


def launched(args: argparse.Namespace) -> TrainResult:
    run = open_run(args.run, args.runs, verify=False)
    settings = validated(merge(run.config(), read_overrides(args.overrides)))
    where = {"workers": args.workers, "address": args.address}
    train_on_ray(partial(resumed, args), run=run.name, runs=args.runs, train=settings.train, **where)
    return saved_result(run.name, args.runs)


def resumed(args: argparse.Namespace, world: World) -> TrainResult:
    return resume(args.run, args.runs, world, args.overrides, allow_changes=args.allow_changes)


def resume(
    reference: str,
    runs: Path,
    world: World = SINGLE_PROCESS,
    overrides: Sequence[str] = (),
    *,
    allow_changes: bool = False,
) -> TrainResult:
    run = open_run(reference, runs, verify=False)
    if world.broadcast_from_main(lambda: "again" if world.has_flag(reference) else ""):
        run = RunFolder(run.folder)  # restarted processes continue from the latest checkpoint
    edited = run.changed_files() == [CONFIG]
    if not edited:
        run.refuse_changed()
    settings = validated(merge(run.config(), read_overrides(list(overrides))))
    if settings.train.epochs is not None:
        raise UserError("a run that goes on counts steps", "say --train.steps instead of train.epochs")
    dataset = open_run_dataset(run, settings, world)
    machine = machines.choose_machine(settings.train.device, settings.train.dtype, world)
    with run.lock(world):
        found = world.broadcast_from_main(
            lambda: start_state(run, settings, dataset, edited=edited, allow=allow_changes)
        )
        training = Trainer(run, settings, machine, dataset)
        state = training.load(found) if found else None
        world.broadcast_from_main(
            lambda: rewind_records(run, state, settings, edited=edited)
        )  # nothing of the run was changed before
        world.set_flag(reference)
        return training.go(state)


def verify_run(reference: str, runs: Path, world: World) -> Verification:
    run = open_run(reference, runs)
    settings = validated(run.config())
    dataset = open_run_dataset(run, settings, world)
    machine = machines.choose_machine(settings.train.device, settings.train.dtype, world)
    with run.lock(world):
        found = world.broadcast_from_main(lambda: run.checkpoint().folder.name)
        return verify_checkpoint(Trainer(run, settings, machine, dataset), found)


def open_run_dataset(run: RunFolder, settings: Settings, world: World) -> Dataset:
    """What the run was trained on, unchanged."""
    if "imported" in run.metadata():
        raise UserError(
            f"'{run.name}' was imported: there is no training to go on with",
            f"train on from it: fledge train --init {run.name} --data.corpus my-notes/",
        )
    if settings.data.path is None:
        raise UserError(f"'{run.folder}' does not say what it was trained on: its config.toml is damaged", "restore it")
    check_batch_divisible(settings.train.batch, world)
    with world.main_process_first("text"):
        dataset = open_dataset_at(settings.data.path, run.tokenizer)
    if dataset.fingerprint != run.metadata_value("dataset_sha256"):
        raise UserError(
            f"the dataset '{dataset.folder}' is not the one that '{run.name}' was trained on:"
            f" {dataset.fingerprint[:12]}… instead of {run.metadata_value('dataset_sha256')[:12]}…",
            "put the old one back, or train a new run on the new text",
        )
    return dataset


def start_state(run: RunFolder, settings: Settings, dataset: Dataset, *, edited: bool, allow: bool) -> str:
    """The name of the checkpoint to go on from; none is the very beginning. Refused where anything is not right."""
    for folder in (run.folder, run.checkpoints):  # nobody else would, where it was killed in its last moment
        remove_partials(folder)
    checkpoint = starting_point(run, settings.train.steps)
    checked_state(run, checkpoint, settings, dataset, edited=edited, allow=allow)
    return checkpoint.folder.name if checkpoint else ""


def checked_state(
    run: RunFolder, checkpoint: Checkpoint | None, settings: Settings, dataset: Dataset, *, edited: bool, allow: bool
) -> None:
    """Whatever has been changed is told, and refused unless it may be, and is meant."""
    made_of = store.read_progress(checkpoint).get("about") if checkpoint else None
    if made_of and made_of["tokenizer_sha256"] != fingerprint(dataset.tokenizer):
        raise UserError(f"'{run.name}' has another tokenizer than its checkpoint", "restore its tokenizer.json")
    wanted, before = to_layer(settings), made_of and made_of["settings"]
    if not edited:  # what has its seal was agreed to already, maybe after the checkpoint was made
        own = to_layer(validated(run.config()))
        found = config_changes(own, wanted)
        found += [each for each in config_changes(before or own, wanted) if not each.allowed and each not in found]
    elif before:
        found = config_changes(before, wanted)
    else:
        if not allow:
            run.refuse_changed()
        found = []  # nobody knows what it was, and somebody takes that upon himself
    refuse_changes(run.name, found, allow=allow)


def starting_point(run: RunFolder, steps: int) -> Checkpoint | None:
    """None for a run that was stopped before it had saved anything."""
    if run.which == "latest" and not store.checkpoint_folders(run.checkpoints):
        if (init := run.metadata().get("init")) is None:
            return None
        raise UserError(f"'{run.name}' has lost its checkpoints", f"begin again: fledge train --init {init}")
    checkpoint = run.checkpoint()
    if checkpoint.step >= steps and not checkpoint.pending_hooks:
        longer = f"to make it longer: fledge resume {run.name} --train.steps {2 * steps} --allow-changes"
        raise UserError(f"'{run.name}' is finished: it has made all its {steps} steps", longer)
    return checkpoint


def rewind_records(run: RunFolder, state: State | None, settings: Settings, *, edited: bool) -> str:
    """Everything later is taken back, and settings that were agreed to are the run's own."""
    if (config := to_toml(settings)) != to_toml(validated(run.config())) or edited:
        run.replace_config(config)
    step, pending_hooks = (state.step, state.pending_hooks is not None) if state else (-1, False)
    later = ", ".join(str(each.step) for each in store.complete_checkpoints(run.checkpoints) if each.step > step)
    store.remove_later(run.checkpoints, step)
    # What a step is pending_hooks will be done and written again, so what it left half-done goes too.
    rewind(run.folder, step - pending_hooks)
    where = f"going on with '{run.name}' after step {step}" if state else f"'{run.name}' begins anew"
    notice(where + (f"; what was saved later is taken back: {later}" if later else ""))
    return ""
