"""Continue a run where it stopped: the result is bit for bit that of a run that was never interrupted."""

import time
from functools import partial
from pathlib import Path

from fledge.alignment.config import AlignSettings
from fledge.checkpoint import store
from fledge.checkpoint.state import State
from fledge.checkpoint.store import Checkpoint
from fledge.checkpoint.thinning import remove_leftovers
from fledge.cluster.train import train_on_ray
from fledge.core import device as machines
from fledge.core.config import Layer, merge, to_layer
from fledge.core.device import Machine
from fledge.core.distributed import SINGLE_PROCESS, World
from fledge.core.errors import UserError
from fledge.core.files import remove_partials
from fledge.core.formatting import counted
from fledge.core.progress import notice
from fledge.insight.verify_checkpoint import Verification, verify_checkpoint
from fledge.recipes.align import reopen_method
from fledge.runs.config_diff import config_changes, refuse_changes
from fledge.runs.dataset import open_run_dataset
from fledge.runs.run_folder import CONFIG, RunFolder, find_run, open_run
from fledge.settings.complete import alignment_toml, config_toml
from fledge.settings.pipeline import validated
from fledge.tokenizers.base import fingerprint
from fledge.tracking.events import Event, StepsPlanned
from fledge.tracking.rewind import rewind
from fledge.training.config import Settings, TrainConfig
from fledge.training.method import Method
from fledge.training.pretraining import Pretraining
from fledge.training.result import TrainResult, saved_result
from fledge.training.setup import check_batch_divisible, check_clipping
from fledge.training.trainer import Trainer


def resume(
    reference: str | None,
    overrides: Layer | None = None,
    runs: Path = Path("runs"),
    *,
    allow_changes: bool = False,
    trust_reward: bool = False,
    world: World = SINGLE_PROCESS,
    begun: float | None = None,
) -> TrainResult:
    """Continue from the latest checkpoint, or the one that the reference names; later ones are removed.

    reference: name or path of a run, with or without @checkpoint; None: the latest run.
    trust_reward: execute the reward functions of an alignment run that came from elsewhere.
    overrides: changed settings. They are refused without `allow_changes`, and some are never allowed (config_diff).
    begun: when the command began, on the clock time.perf_counter, for a run with train.minutes; None: now.
    """
    begun = time.perf_counter() if begun is None else begun
    run = open_run(reference, runs, verify=False)
    reference = reference or run.name
    if world.broadcast_from_main(lambda: "yes" if world.has_flag(reference) else ""):
        run = RunFolder(run.folder)  # restarted processes continue from the latest checkpoint
    edited = run.changed_files() == [CONFIG]
    if not edited:
        run.refuse_changed()
    before = run.config()["train"]
    settings = changed_settings(run, overrides or {})
    check_batch_divisible(settings.train.batch, world)
    machine = machines.choose_machine(settings.train.device, settings.train.dtype, world, settings.train.threads)
    check_clipping(settings.train, machine)
    method = open_run_method(run, settings, machine, trust=trust_reward)
    with run.lock(world):
        name = world.broadcast_from_main(
            lambda: choose_start_checkpoint(run, settings, method, edited=edited, allow=allow_changes)
        )
        trainer = Trainer(run, settings, machine, method, begun=begun)
        state = trainer.checkpointer.load(name) if name else None
        # the first write to the run
        same_time = not edited and all(before.get(key) == getattr(settings.train, key) for key in ("minutes", "steps"))
        keep = (StepsPlanned,) if same_time else ()  # else they were decided for another time
        world.broadcast_from_main(lambda: truncate_run_to(run, state, run_toml(settings, method), keep, edited=edited))
        world.set_flag(reference)
        return trainer.fit(state)


def resume_with_ray(
    reference: str | None,
    overrides: Layer | None = None,
    runs: Path = Path("runs"),
    *,
    allow_changes: bool = False,
    trust_reward: bool = False,
    workers: int | None = None,
    address: str | None = None,
) -> TrainResult:
    """`resume` in `workers` processes that Ray starts, and restarts when one dies. `address`: of the cluster."""
    run = open_run(reference, runs, verify=False)
    settings = changed_settings(run, overrides or {})
    words = (reference or run.name, overrides, runs)
    work = partial(resume, *words, allow_changes=allow_changes, trust_reward=trust_reward)
    train_on_ray(work, run=run.reference, runs=runs, train=settings.train, workers=workers, address=address)
    return saved_result(run.name, runs)


def changed_settings(run: RunFolder, overrides: Layer) -> Settings:
    """The settings of the run with these changes. A number of steps that is given is exact."""
    if "steps" in overrides.get("train", {}):
        overrides = merge({"train": {"minutes": None, "step_limit": None}}, overrides)
    layer = merge(run.config(), overrides)
    if layer["train"].get("epochs") not in (None, "null"):
        raise UserError("train.epochs cannot be changed when a run is resumed", "set --train.steps instead")
    return validated(layer)


def verify(
    reference: str | None, runs: Path = Path("runs"), *, trust_reward: bool = False, world: World = SINGLE_PROCESS
) -> Verification:
    """Check that loading a checkpoint and saving it again gives the same bits."""
    run = open_run(reference, runs)
    settings = validated(run.config())
    check_batch_divisible(settings.train.batch, world)
    machine = machines.choose_machine(settings.train.device, settings.train.dtype, world, settings.train.threads)
    method = open_run_method(run, settings, machine, trust=trust_reward)
    with run.lock(world):
        name = world.broadcast_from_main(lambda: run.checkpoint().folder.name)
        return verify_checkpoint(Trainer(run, settings, machine, method), name)


def open_run_method(run: RunFolder, settings: Settings, machine: Machine, *, trust: bool = False) -> Method:
    """What the run is trained with; refused where its data has changed."""
    if isinstance(settings, AlignSettings):
        return reopen_method(run, settings, machine, trust=trust)
    return Pretraining(settings, machine, open_run_dataset(run, settings.data.path, machine.world))


def run_toml(settings: Settings, method: Method) -> str:
    if isinstance(settings, AlignSettings):
        return alignment_toml(settings)
    assert isinstance(method, Pretraining)
    return config_toml(settings, method.dataset)


def choose_start_checkpoint(run: RunFolder, settings: Settings, method: Method, *, edited: bool, allow: bool) -> str:
    """The name of the checkpoint to start from, or "" for the beginning; refused if anything does not fit."""
    remove_partials(run.folder)  # left by a process that was killed
    remove_leftovers(run.checkpoints)
    checkpoint = start_checkpoint(run, settings.train)
    provenance = store.read_state_json(checkpoint)["provenance"] if checkpoint else None
    if provenance and provenance["tokenizer_sha256"] != fingerprint(method.tokenizer):
        raise UserError(f"'{run.name}' has another tokenizer than its checkpoint", "restore its tokenizer.json")
    if edited and not provenance and not allow:
        run.refuse_changed()
    wanted, saved = to_layer(settings), provenance and provenance["settings"]
    if edited:  # config.toml was edited by hand: only the checkpoint still has the old settings
        changes = config_changes(saved, wanted) if saved else []
    else:
        own = to_layer(validated(run.config()))
        changes = config_changes(own, wanted)
        changes += [each for each in config_changes(saved or own, wanted) if not each.allowed and each not in changes]
    refuse_changes(run, changes, allow=allow)
    return checkpoint.folder.name if checkpoint else ""


def start_checkpoint(run: RunFolder, train: TrainConfig) -> Checkpoint | None:
    """None: the run was stopped before its first checkpoint."""
    if run.selector == "latest" and store.is_unsaved(run.checkpoints):
        if train.ngram_steps:
            again = f"start again: fledge train {run.path_word}/{CONFIG}"
            raise UserError(f"'{run.name}' has no checkpoints left", again)
        if (init := run.metadata().get("init")) is None:
            return None
        origin = find_run(init, run.folder.parent)
        word = f"{origin.reference}@{origin.selector}" if origin else init
        raise UserError(f"'{run.name}' has no checkpoints left", f"start again: fledge train --init {word}")
    checkpoint = run.checkpoint()
    if checkpoint.weights_only:
        raise UserError(
            f"the checkpoint of step {checkpoint.step} holds weights only: training cannot continue from it",
            f"continue from the latest: fledge resume {run.reference}"
            f" · or start a new run from these weights: fledge train --init {run.reference}@{checkpoint.step}",
        )
    if not checkpoint.pending_hooks:
        refuse_finished(run, checkpoint, train)
    return checkpoint


def refuse_finished(run: RunFolder, checkpoint: Checkpoint, train: TrainConfig) -> None:
    waited = store.read_state_json(checkpoint)["components"].get("early_stopping", {}).get("waited", 0)
    if train.patience is not None and waited >= train.patience:
        raise UserError(
            f"'{run.name}' is finished: it was stopped early at step {checkpoint.step},"
            f" after {counted(waited, 'evaluation')} without a better one",
            f"to train on: fledge resume {run.reference} --train.patience {2 * waited} --allow-changes",
        )
    last_step = train.steps if train.minutes is None else run.last_step()
    if checkpoint.step >= last_step:
        longer = f"to make it longer: fledge resume {run.reference} --train.steps {2 * last_step} --allow-changes"
        raise UserError(f"'{run.name}' is finished: all its {last_step} steps are done", longer)


def truncate_run_to(
    run: RunFolder, state: State | None, config: str, keep: tuple[type[Event], ...], *, edited: bool
) -> str:
    """Save changed settings; remove checkpoints, metrics and events after the step that training starts from.

    keep: events that stay, as they are not to happen again.
    """
    if config != (run.folder / CONFIG).read_text(encoding="utf-8") or edited:
        run.replace_config(config)
    step, pending = (state.step, state.pending_hooks is not None) if state else (-1, False)
    later = ", ".join(str(each.step) for each in store.complete_checkpoints(run.checkpoints) if each.step > step)
    store.remove_after(run.checkpoints, step)
    rewind(run.folder, step - pending, keep)  # pending hooks run again, so what they have written is removed too
    where = f"resuming '{run.name}' after step {step}" if state else f"starting '{run.name}' from the beginning"
    notice(where + (f"; later checkpoints are removed: {later}" if later else ""))
    return ""
