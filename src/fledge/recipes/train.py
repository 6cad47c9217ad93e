"""fledge train: a preset or a file → a run; or on from the weights of another run."""

import argparse
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

from fledge.batches.sampler import WindowSampler
from fledge.checkpoint import store
from fledge.cli.output import report
from fledge.cluster.launch import launch_on_ray, refuse_idle
from fledge.core import device as machines
from fledge.core.config import to_layer, to_toml
from fledge.core.device import Machine
from fledge.core.distributed import SINGLE_PROCESS, World, init_distributed, restart_counts
from fledge.core.errors import Interrupted, UserError
from fledge.core.files import human_bytes
from fledge.datasets.shards import Dataset
from fledge.model.config import ModelConfig
from fledge.model.flops import TRAINING_BYTES, parameters
from fledge.recipes.prepare import ensure_dataset
from fledge.recipes.resume import resume
from fledge.recipes.train_result import TrainResult, print_result
from fledge.runs import metadata, run_folder
from fledge.runs.run_folder import RunFolder
from fledge.settings.pipeline import resolve
from fledge.text.inputs import is_url
from fledge.tracking.sinks import read_events, read_metrics
from fledge.training import init_from
from fledge.training.attention_speed import fastest_attention
from fledge.training.config import Settings
from fledge.training.init_from import InitialWeights
from fledge.training.micro_batch import BUSY_TOKENS, chunked_loss_pays
from fledge.training.setup import check_batch_divisible
from fledge.training.trainer import Trainer, run_lock

LONGEST_NAME = 200  # bytes; a file system takes 255, and folders beside it carry longer names


def run(args: argparse.Namespace) -> None:
    refuse_idle(args)
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
    return launch_on_ray(train_in_world, args, args.run, settings)


def train_in_world(args: argparse.Namespace, world: World) -> TrainResult:
    settings, base_name, start = asked_for(args)
    return train_or_resume(settings, args, base_name, start, world)


def asked_for(args: argparse.Namespace) -> tuple[Settings, str, InitialWeights | None]:
    """What to train, how the run is called if nobody says, and the run that it begins with, if any."""
    if args.preset is None and args.init is None:
        raise UserError("what is to be trained?", "name a preset or a FILE.toml, or a run to go on from: --init RUN")
    start = init_from.find_initial_weights(args.init, args.runs) if args.init else None
    settings = start.settings(args.preset, args.overrides) if start else resolve(args.preset, args.overrides)
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
        with run_lock(run, world):
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
        steps = read_metrics(run.folder)["step"]
    except UserError:
        steps = []
    saved = max((checkpoint.step for checkpoint in store.complete_checkpoints(run.checkpoints)), default=0)
    return not saved and not max(steps, default=0)


def check_name(name: str) -> None:
    odd = name.startswith((".", "-")) or any(c in "/\\@" for c in name) or not name.isprintable()
    if not name or odd or len(name.encode()) > LONGEST_NAME:
        raise UserError(f"a run cannot be named '{name}'", "use letters, digits, '-' and '_'")


def complete_settings(settings: Settings, dataset: Dataset, machine: Machine) -> Settings:
    """Fill in what depends on data and machine. After this, nothing in the settings is left to chance."""
    held = dataset.tokenizer.vocab_size
    vocab_size = settings.model.vocab_size or held
    if vocab_size < held:
        raise UserError(
            f"model.vocab_size = {vocab_size} is smaller than the tokenizer's {held}",
            "leave model.vocab_size out: it then follows the tokenizer",
        )
    if vocab_size < 2:
        raise UserError("a vocabulary of 1 token leaves nothing to predict", "train on a text with more characters")
    model = replace(settings.model, vocab_size=vocab_size)
    check_prompt(settings.track.prompt, dataset)
    data = replace(settings.data, path=dataset_path(settings.data.path, dataset))
    judged = len(dataset.splits["val"]) if "val" in dataset.held else 0
    return decide_settings(replace(settings, model=model, data=data), len(dataset.split("train")), judged, machine)


def decide_settings(settings: Settings, tokens: int, judged: int, machine: Machine) -> Settings:
    """Fill in what depends on the machine, and on how many tokens there are to learn from and to be judged by."""
    model = settings.model
    check_memory(model, machine)
    stride = settings.data.stride or model.context
    steps = settings.train.steps
    order = WindowSampler(tokens, model.context, stride, settings.train.seed)
    if settings.train.epochs is not None:
        steps = max(1, round(settings.train.epochs * order.epoch / settings.train.batch))
        replace(settings.train, steps=steps)  # refuses a number of steps that nobody lives to see
    compile, looks = settings.train.compile, settings.train.eval_every
    if looks is None:
        looks = evaluation_interval(steps, settings.train.batch * model.context, judged)
    compile = compile_pays(settings, steps, machine) if compile == "auto" else compile
    chunked = settings.train.chunked_loss
    train = replace(
        settings.train,
        steps=steps,
        epochs=None,
        device=machine.device,
        dtype=machine.dtype,
        eval_every=looks,
        save_every=settings.train.save_every or looks or steps,
        compile=compile,
        chunked_loss=decide_chunked_loss(settings, machine, compile) if chunked == "auto" else chunked,
    )
    if model.attention == "auto":
        local = max(1, train.batch // machine.world.size)
        sequences = local if train.micro_batch == "auto" else train.micro_batch or local
        model = replace(model, attention=fastest_attention(model, sequences, machine))
    return replace(settings, model=model, data=replace(settings.data, stride=stride), train=train)


def decide_chunked_loss(settings: Settings, machine: Machine, compile: bool) -> bool:
    model, wanted = settings.model, settings.train.micro_batch
    local = max(1, settings.train.batch // machine.world.size)
    sequences = -(-BUSY_TOKENS // model.context) if wanted == "auto" else wanted or local
    return chunked_loss_pays(model, min(sequences, local), machine, compiled=compile)


EVALUATION_SHARE = 0.05  # of the work; a token that is judged costs a third of one that is learned from
MAX_EVALUATIONS = 40


def evaluation_interval(steps: int, batch: int, judged: int) -> int:
    """Steps between looks at so many tokens, rounded up to 1, 2 or 5 times a power of ten."""
    # One more look is taken before the first step.
    affordable = EVALUATION_SHARE * 3 * steps * batch / max(1, judged) - 1
    wanted = steps / min(MAX_EVALUATIONS, max(1, affordable))
    power = 10 ** math.floor(math.log10(max(1, wanted)))
    return min(steps, next(n * power for n in (1, 2, 5, 10) if n * power >= wanted))


def dataset_path(given: str | None, dataset: Dataset) -> str:
    """Where the dataset is found again: a URL is good on every machine, the cache that it came through is not."""
    return given if given and is_url(given) else str(dataset.folder.resolve())


def check_memory(model: ModelConfig, machine: Machine) -> None:
    needed, there = TRAINING_BYTES * parameters(model), machines.total_memory(machine.device)
    if needed > there:
        raise UserError(
            f"a model of {parameters(model):,} parameters takes {human_bytes(needed)} to train;"
            f" this machine has {human_bytes(there)}",
            "make it smaller: fewer model.n_layer, or a smaller model.n_embd",
        )


def check_prompt(prompt: str | None, dataset: Dataset) -> None:
    """Samples begin with the prompt, so the tokenizer must know its characters."""
    try:
        dataset.tokenizer.encode(prompt or "")
    except UserError as error:
        raise UserError(f"track.prompt {prompt!r}: {error.message}", "choose another: --track.prompt TEXT") from None


# Multiplications of a whole run (six for each matrix number and token) above which compiling was measured to pay.
WORTH_COMPILING = {"cpu": 2e13, "cuda": 1e16}


def compile_pays(settings: Settings, steps: int, machine: Machine) -> bool:
    """Compiling costs its time once, at the start; a short run is over before that is earned back."""
    if machine.device not in WORTH_COMPILING:
        return False
    tokens = steps * settings.train.batch * settings.model.context
    return 72 * tokens * settings.model.n_layer * settings.model.n_embd**2 > WORTH_COMPILING[machine.device]
