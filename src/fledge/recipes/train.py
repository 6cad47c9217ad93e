"""Train a model: settings → dataset → run folder → training loop → result.

The settings come from a preset or a TOML file; the weights are random, or those of another run (`init`).
"""

import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from fledge.cluster.train import train_on_ray
from fledge.core import device as machines
from fledge.core.config import Layer
from fledge.core.device import Machine
from fledge.core.distributed import SINGLE_PROCESS, World, restart_counts
from fledge.core.errors import Interrupted, UserError
from fledge.datasets.cache import ensure_dataset
from fledge.datasets.shards import Dataset
from fledge.recipes.resume import resume
from fledge.runs import metadata, run_folder
from fledge.runs.names import check_run_name, run_name_from
from fledge.runs.run_folder import RunFolder
from fledge.settings.complete import complete_settings, config_toml
from fledge.settings.pipeline import resolve, resolve_init
from fledge.training.config import Settings
from fledge.training.init_from import InitialWeights, find_initial_weights
from fledge.training.result import TrainResult, is_unstarted, saved_result
from fledge.training.setup import check_batch_divisible
from fledge.training.trainer import Trainer


@dataclass(frozen=True)
class TrainRequest:
    settings: Settings
    default_name: str  # of the run; numbered if it exists
    initial: InitialWeights | None = None


def train(
    preset: str | None,
    overrides: Layer | None = None,
    runs: Path = Path("runs"),
    *,
    name: str | None = None,
    init: str | None = None,
    profile: bool = False,
    world: World = SINGLE_PROCESS,
) -> TrainResult:
    """Train a new run in `runs`. SIGINT and SIGTERM save a checkpoint and raise `Interrupted`.

    preset: name of a preset or path of a TOML file; None: the settings of the run that `init` names.
    overrides: settings that replace those of the preset: section → key → value.
    init: a run, such as "gpt2@best", whose model and tokenizer the new run starts from.
    """
    request = resolve_request(preset, overrides, runs, init)
    if restart_counts()[1] and name is None:
        raise missing_run_name()
    if name is not None and world.broadcast_from_main(lambda: "yes" if restarted(name, runs, world) else ""):
        return resume(name, runs=runs, world=world)
    return train_request(request, runs, name=name, profile=profile, world=world)


def train_with_ray(
    preset: str | None,
    overrides: Layer | None = None,
    runs: Path = Path("runs"),
    *,
    name: str | None,
    init: str | None = None,
    profile: bool = False,
    workers: int | None = None,
    address: str | None = None,
) -> TrainResult:
    """`train` in `workers` processes that Ray starts, and restarts when one dies. `address`: of the cluster."""
    settings = resolve_request(preset, overrides, runs, init).settings
    if name is None:
        raise missing_run_name()
    check_run_name(name)
    run_folder.refuse_existing(runs / name)
    work = partial(train, preset, overrides, runs, name=name, init=init, profile=profile)
    train_on_ray(work, run=name, runs=runs, train=settings.train, workers=workers, address=address)
    return saved_result(name, runs)


def resolve_request(preset: str | None, overrides: Layer | None, runs: Path, init: str | None) -> TrainRequest:
    if init is not None:
        initial = find_initial_weights(init, runs)
        settings = resolve_init(initial.run, preset, overrides or {})
        return TrainRequest(settings, run_name_from(preset) if preset else initial.run.name, initial)
    if preset is None:
        raise UserError("no preset is given", "name a preset or a FILE.toml, or a run to start from: --init RUN")
    return TrainRequest(resolve(preset, overrides), run_name_from(preset))


def missing_run_name() -> UserError:
    return UserError("--run NAME is required when the launcher may restart processes", "add --run NAME")


def restarted(name: str, runs: Path, world: World) -> bool:
    """Whether this launch (by torchrun or Ray) created the run before it was restarted."""
    return world.has_flag(name) and (runs / name).exists()


def train_request(
    request: TrainRequest, runs: Path, *, name: str | None = None, profile: bool = False, world: World = SINGLE_PROCESS
) -> TrainResult:
    """Check everything, create the run folder, train. The folder is removed if training fails before its first step."""
    settings, initial = request.settings, request.initial
    if name is not None:
        check_run_name(name)
        if world.is_main:  # a later rank would find the folder that the main process has created
            run_folder.refuse_existing(runs / name)
    check_batch_divisible(settings.train.batch, world)
    machine = machines.choose_machine(settings.train.device, settings.train.dtype, world)
    start = initial.initial_state(settings) if initial else None
    dataset = open_dataset(settings, machine)
    complete = complete_settings(settings, dataset, machine)
    about = {
        **metadata.training_metadata(dataset, machine),
        "text": settings.data.path or ", ".join(settings.data.sources),
    }
    if initial:
        initial.check(dataset)
        about["init"] = initial.name

    def create() -> str:
        folder = runs / (name or run_folder.free_name(runs, request.default_name))
        run_folder.refuse_existing(folder)
        world.set_flag(folder.name)  # before the folder exists: if killed in between, `restarted` is still False
        return run_folder.create_run(folder, config_toml(complete, dataset), about, dataset.tokenizer, start).name

    run = RunFolder(runs / world.broadcast_from_main(create))
    try:
        with run.lock(world):
            return Trainer(run, complete, machine, dataset, profile=profile).fit(start)
    except Interrupted:
        raise
    except BaseException:
        if world.is_main and is_unstarted(run):
            shutil.rmtree(run.folder, ignore_errors=True)
        raise


def open_dataset(settings: Settings, machine: Machine) -> Dataset:
    """The dataset, prepared by the main process if necessary; not kept if the settings cannot train on it."""
    # The check runs in the main process only, so it must not measure attention, which is a collective.
    unmeasured = replace(settings, model=replace(settings.model, attention="sdpa"))
    with machine.world.main_process_first("text"):
        return ensure_dataset(
            settings.data, settings.tokenizer, check=lambda dataset: complete_settings(unmeasured, dataset, machine)
        )
