"""Train a model: settings → dataset → run folder → training loop → result.

What is asked for is resolved in request.py; the weights are random, or those of another run (`init`).
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from fledge.checkpoint import store
from fledge.cluster.train import train_on_ray
from fledge.core import device as machines
from fledge.core.config import Layer
from fledge.core.device import Machine
from fledge.core.distributed import SINGLE_PROCESS, World, restart_counts
from fledge.core.errors import UserError
from fledge.core.progress import notice
from fledge.datasets.cache import ensure_dataset
from fledge.datasets.description import describe_damage
from fledge.datasets.shards import Dataset
from fledge.recipes.new_run import train_new_run
from fledge.recipes.request import TrainRequest, announce, fit_to_time, resolve_request
from fledge.recipes.resume import resume
from fledge.runs import metadata, run_folder
from fledge.runs.names import check_run_name, run_word
from fledge.runs.run_folder import RunFolder
from fledge.settings.complete import complete_settings, config_toml
from fledge.training.config import Settings
from fledge.training.ngram_fit import check_pairs, ngram_state
from fledge.training.pretraining import Pretraining
from fledge.training.result import TrainResult, saved_result
from fledge.training.setup import check_batch_divisible


def train(
    words: str | Sequence[str] = (),
    overrides: Layer | None = None,
    runs: Path = Path("runs"),
    *,
    minutes: float | None = None,
    name: str | None = None,
    init: str | None = None,
    profile: bool = False,
    world: World = SINGLE_PROCESS,
    begun: float | None = None,
) -> TrainResult:
    """Train a new run in `runs`. SIGINT and SIGTERM save a checkpoint and raise `Interrupted`.

    words: a preset or settings file, and the text: files, folders, globs, named corpora, URLs (see settings/words.py).
    overrides: settings that replace those of the preset: section → key → value.
    minutes: for the whole run; size, batch and steps are then chosen. For text without a preset: DEFAULT_MINUTES.
    init: a run, such as "gpt2@best", whose model and tokenizer the new run starts from.
    begun: when the minutes began, on the clock time.perf_counter; None: now.
    """
    begun = time.perf_counter() if begun is None else begun
    request = resolve_request(words, overrides, runs, init)
    if restart_counts()[1] and name is None:
        raise missing_run_name()
    if name is not None:
        check_run_name(name)
        exists = world.broadcast_from_main(lambda: "yes" if (runs / name).exists() else "")
        if exists and world.has_flag(name):  # made by this launch (torchrun or Ray) before it was restarted
            return resume(name, runs=runs, world=world, begun=begun)
        if exists:  # before anything is measured or prepared
            run_folder.refuse_existing(runs / name)
    request = fit_to_time(request, minutes, runs, world, begun)
    return train_request(request, runs, name=name, profile=profile, world=world, begun=begun)


def train_with_ray(
    words: str | Sequence[str] = (),
    overrides: Layer | None = None,
    runs: Path = Path("runs"),
    *,
    minutes: float | None = None,
    name: str | None,
    init: str | None = None,
    profile: bool = False,
    workers: int | None = None,
    address: str | None = None,
) -> TrainResult:
    """`train` in `workers` processes that Ray starts, and restarts when one dies. `address`: of the cluster."""
    settings = resolve_request(words, overrides, runs, init).settings
    if name is None:
        raise missing_run_name()
    check_run_name(name)
    run_folder.refuse_existing(runs / name)
    work = partial(train, words, overrides, runs, minutes=minutes, name=name, init=init, profile=profile)
    train_on_ray(work, run=run_word(runs / name), runs=runs, train=settings.train, workers=workers, address=address)
    return saved_result(name, runs)


def missing_run_name() -> UserError:
    return UserError("--run NAME is required when the launcher may restart processes", "add --run NAME")


def train_request(
    request: TrainRequest,
    runs: Path,
    *,
    name: str | None = None,
    profile: bool = False,
    world: World = SINGLE_PROCESS,
    begun: float | None = None,
) -> TrainResult:
    """Check everything, create the run folder, train."""
    settings, initial = request.settings, request.initial
    check_batch_divisible(settings.train.batch, world)
    machine = machines.choose_machine(settings.train.device, settings.train.dtype, world, settings.train.threads)
    if settings.train.threads is None:
        machines.leave_busy_cores(machine)
    start = initial.initial_state(settings) if initial else None
    fits_ngrams = settings.train.ngram_steps > 0
    dataset = open_dataset(settings, machine)
    if world.is_main and (damage := describe_damage(dataset)):
        notice(damage)
    complete = complete_settings(settings, dataset, machine)
    if not initial:
        check_pairs(complete)
    if world.is_main:
        announce(complete, dataset, request.expected)
    about = {
        **metadata.training_metadata(dataset, machine),
        "text": settings.data.path or ", ".join(settings.data.sources),
        "preset": request.preset,
        "forecast": request.forecast,
    }
    if initial:
        initial.check(dataset)
        about["init"] = initial.name

    if fits_ngrams and world.is_main:
        start = ngram_state(complete, machine, dataset.split("train"))

    def create() -> str:
        folder = runs / (name or run_folder.free_name(runs, request.default_name))
        run_folder.refuse_existing(folder)
        world.set_flag(folder.name)  # before the folder exists: if killed in between, `train` finds no run
        return run_folder.create_run(folder, config_toml(complete, dataset), about, dataset.tokenizer, start).name

    run = RunFolder(runs / world.broadcast_from_main(create))
    if fits_ngrams and not world.is_main:
        start = store.load(run.checkpoint())
    method = Pretraining(complete, machine, dataset)
    return train_new_run(run, complete, machine, method, start, profile=profile, begun=begun)


def open_dataset(settings: Settings, machine: Machine) -> Dataset:
    """The dataset, prepared by the main process if necessary; not kept if the settings cannot train on it."""
    # The check runs in the main process only, so it must not measure attention, which is a collective.
    unmeasured = replace(settings, model=replace(settings.model, attention="sdpa"))
    with machine.world.main_process_first("text"):
        return ensure_dataset(
            settings.data, settings.tokenizer, check=lambda dataset: complete_settings(unmeasured, dataset, machine)
        )
