"""A preset or a run → one file of PyTorch that reads from top to bottom."""

from dataclasses import dataclass
from pathlib import Path

import safetensors.torch

from fledge.checkpoint import store
from fledge.checkpoint.state import Tensors, plain_weights
from fledge.core.config import Layer
from fledge.core.errors import UserError, nearest
from fledge.core.files import user_path, write_atomic
from fledge.core.progress import notice
from fledge.exchange.eject import render_model, run_settings
from fledge.model.flops import parameter_count
from fledge.runs.methods import refuse_reward_model
from fledge.runs.run_folder import RunFolder, find_run, list_runs, open_run
from fledge.settings.layers import preset_files
from fledge.settings.presets import preset_settings
from fledge.training.config import Settings


@dataclass(frozen=True)
class EjectSource:
    """The settings to eject; for a run also its files."""

    name: str
    settings: Settings
    weights: Path | None = None
    tokenizer: Path | None = None
    merged: Tensors | None = None  # with LoRA, or a value head: weights that must be written beside the file


@dataclass(frozen=True)
class EjectResult:
    name: str
    file: Path
    lines: int
    parameters: int
    weights: Path | None  # of the run
    tokenizer: Path | None


def eject(model: str | None, out: str, overrides: Layer | None = None, runs: Path = Path("runs")) -> EjectResult:
    """Write a model to the new file `out`.

    model: a run, a preset or a FILE.toml, tried in this order; None: the latest run.
    """
    file = user_path(out)
    refuse_file(file)
    source = find_source(model, overrides or {}, runs)
    text, weights = render_model(source.name, source.settings), source.weights
    if source.merged is not None:
        refuse_file(weights := file.with_suffix(".safetensors"))
        write_atomic(weights, safetensors.torch.save(source.merged))
        notice(f"the weights of '{source.name}', merged for the file: {weights}")
    write_atomic(file, text)
    size = parameter_count(source.settings.model)
    return EjectResult(source.name, file, len(text.splitlines()), size, weights, source.tokenizer)


def refuse_file(file: Path) -> None:
    if file.exists():
        raise UserError(f"'{file}' already exists", "choose another --out, or remove it first")


def find_source(name: str | None, overrides: Layer, runs: Path) -> EjectSource:
    if name is None:
        return run_source(open_run(None, runs, default="best"), overrides)
    run = find_run(name, runs, default="best")
    is_preset = name in preset_files() or name.endswith(".toml")
    if run and not (is_preset and overrides):
        if is_preset:
            notice(f"'{name}' is both a run and a preset: using the run")
        return run_source(run, overrides)
    if not is_preset:
        known = [*preset_files(), *(each.name for each in list_runs(runs))]
        hint = nearest(name, known) or "'fledge presets' and 'fledge runs' list them"
        raise UserError(f"no preset or run is called '{name}'", hint)
    return EjectSource(Path(name).stem, preset_settings(name, overrides)[0])


def run_source(run: RunFolder, overrides: Layer) -> EjectSource:
    if overrides:
        hint = f"leave out the settings of [{next(iter(overrides))}]"
        raise UserError(f"'{run.name}' is a run: its settings cannot be changed", hint)
    run.refuse_changed()
    refuse_reward_model(run)
    checkpoint = run.checkpoint()
    weights, tokenizer = checkpoint.folder / store.WEIGHTS, run.tokenizer_file
    if not weights.exists():
        raise UserError(
            f"step {checkpoint.step} of '{run.name}' is a sharded checkpoint, and an ejected file reads a single one",
            "start a run from it in one process, and eject that:"
            f" fledge train --init {run.reference}@{checkpoint.step}",
        )
    settings, config = run_settings(run), run.model_config()
    merged = None if settings.model == config else plain_weights(config, store.load_weights(checkpoint))
    return EjectSource(run.name, settings, weights, tokenizer, merged)
