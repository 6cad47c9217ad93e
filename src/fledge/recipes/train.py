"""fledge train: a preset or a file → a run; or on from the weights of another run."""

import argparse
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

from fledge.checkpoint import store
from fledge.cli.output import report
from fledge.cluster.train import train_on_ray
from fledge.core import device as machines
from fledge.core.config import read_overrides, to_layer, to_toml
from fledge.core.distributed import SINGLE_PROCESS, World, init_distributed, restart_counts
from fledge.core.errors import Interrupted, UserError
from fledge.datasets.cache import ensure_dataset
from fledge.recipes.resume import resume
from fledge.recipes.train_result import print_result, refuse_ray_options
from fledge.runs import metadata, run_folder
from fledge.runs.run_folder import RunFolder
from fledge.settings.pipeline import resolve, resolve_init
from fledge.tracking.sinks.csv import read_metrics
from fledge.tracking.sinks.jsonl import read_events
from fledge.training import init_from
from fledge.training.complete import complete_settings
from fledge.training.config import Settings
from fledge.training.init_from import InitialWeights
from fledge.training.result import TrainResult, saved_result
from fledge.training.setup import check_batch_divisible
from fledge.training.trainer import Trainer

LONGEST_NAME = 200  # bytes; a file system takes 255, and folders beside it carry longer names


def run(args: argparse.Namespace) -> None:
    refuse_ray_options(args)
    if args.launcher and not args.print_config:
        print_result(launched(args), as_json=args.json)
        return
    with init_distributed() as world:
        if args.print_config:
            settings, _, _ = asked_for(args)
            report(to_layer(settings), as_json=args.json, text=to_toml(settings, explain=True))
            return
        print_result(train_in_world(args, world), as_json=args.json)


def launched(args: argparse.Namespace) -> TrainResult:
    settings, _, _ = asked_for(args)
    if args.run is None:
        raise unnamed()
    check_name(args.run)
    run_folder.refuse_existing(args.runs / args.run)
    work = partial(train_in_world, args)
    where = {"workers": args.workers, "address": args.address}
    train_on_ray(work, run=args.run, runs=args.runs, train=settings.train, **where)
    return saved_result(args.run, args.runs)


def train_in_world(args: argparse.Namespace, world: World) -> TrainResult:
    settings, base_name, start = asked_for(args)
    return train_or_resume(settings, args, base_name, start, world)


def asked_for(args: argparse.Namespace) -> tuple[Settings, str, InitialWeights | None]:
    """What to train, how the run is called if nobody says, and the run that it begins with, if any."""
    if args.preset is None and args.init is None:
        raise UserError("what is to be trained?", "name a preset or a FILE.toml, or a run to go on from: --init RUN")
    start = init_from.find_initial_weights(args.init, args.runs) if args.init else None
    settings = (
        resolve_init(start.run, args.preset, args.overrides)
        if start
        else resolve(args.preset, read_overrides(args.overrides))
    )
    base_name = run_name(args.preset) if args.preset else start.run.name if start else ""
    return settings, base_name, start


def unnamed() -> UserError:
    return UserError("processes that are started again must know which run to go on with", "name it: --run NAME")


def train_or_resume(
    settings: Settings, args: argparse.Namespace, base_name: str, start: InitialWeights | None, world: World
) -> TrainResult:
    """torchrun, or Ray, does the same again when a process has died: then the run that it made goes on."""
    if restart_counts()[1] and args.run is None:
        raise unnamed()
    if args.run is not None and world.broadcast_from_main(
        lambda: "there" if belongs_to_this_launch(args.run, args.runs, world) else ""
    ):
        return resume(args.run, args.runs, world)
    name, profile = args.run, args.profile
    return train(settings, args.runs, name=name, base_name=base_name, start=start, world=world, profile=profile)


def belongs_to_this_launch(name: str, runs: Path, world: World) -> bool:
    """A run of that name that was there before is somebody else's, and stays as it is."""
    return world.has_flag(name) and (runs / name).exists()


def run_name(preset: str) -> str:
    """A name for the run of a preset or a file, whatever the file is called."""
    return re.sub(r"[^\w-]", "-", Path(preset).stem).strip("-")[:100] or "run"


def train(
    settings: Settings,
    runs: Path,
    *,
    name: str | None,
    base_name: str,
    start: InitialWeights | None = None,
    world: World = SINGLE_PROCESS,
    profile: bool = False,
) -> TrainResult:
    """From settings to a trained model. Whatever is wrong is found before the run's folder is made."""
    if name is not None:
        check_name(name)
        if world.is_main:  # who comes later would find what the first has made
            run_folder.refuse_existing(runs / name)
    check_batch_divisible(settings.train.batch, world)
    machine = machines.choose_machine(settings.train.device, settings.train.dtype, world)
    text = settings.data.path or settings.data.corpus  # complete() fills in the path, and then nobody can tell
    first = start.begin(settings) if start else None
    # A check runs in the main process only, so it must not measure: that is a collective of all ranks.
    unmeasured = replace(settings, model=replace(settings.model, attention="sdpa"))
    with world.main_process_first("text"):
        dataset = ensure_dataset(
            settings.data, settings.tokenizer, check=lambda made: complete_settings(unmeasured, made, machine)
        )
    settings = complete_settings(settings, dataset, machine)
    about = {**metadata.training_metadata(dataset, machine), "text": text}
    if start:
        start.check(dataset)
        about["init"] = start.name

    def create() -> str:
        folder = runs / (name or run_folder.free_name(runs, base_name))
        run_folder.refuse_existing(folder)
        world.set_flag(folder.name)  # before it is there: who is killed in between has made none
        return run_folder.create_run(folder, to_toml(settings), about, dataset.tokenizer, first).name

    run = RunFolder(runs / world.broadcast_from_main(create))
    try:
        with run.lock(world):
            return Trainer(run, settings, machine, dataset, profile=profile).go(first)
    except Interrupted:
        raise
    except BaseException:
        if world.is_main and is_unstarted(run):
            shutil.rmtree(run.folder, ignore_errors=True)  # leave no run behind that is none
        raise


def is_unstarted(run: RunFolder) -> bool:
    if any(event["event"] == "Anomaly" for event in read_events(run.folder)):
        return False
    try:
        last_step = read_metrics(run.folder).last_step
    except UserError:
        last_step = 0
    saved = max((checkpoint.step for checkpoint in store.complete_checkpoints(run.checkpoints)), default=0)
    return not saved and not last_step


def check_name(name: str) -> None:
    odd = name.startswith((".", "-")) or any(c in "/\\@" for c in name) or not name.isprintable()
    if not name or odd or len(name.encode()) > LONGEST_NAME:
        raise UserError(f"a run cannot be named '{name}'", "use letters, digits, '-' and '_'")
