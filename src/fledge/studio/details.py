"""What the page of one run shows beside its curves: checkpoints, settings, plan and reality, origin."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fledge.checkpoint import store
from fledge.core.config import Layer
from fledge.core.errors import UserError
from fledge.core.files import folder_bytes
from fledge.planning.backtest import Row, compare
from fledge.runs.config_diff import config_changes, show_value
from fledge.runs.methods import PRETRAIN, method_of
from fledge.runs.run_folder import RunFolder
from fledge.settings.layers import merge_layers, read_align_preset, read_preset
from fledge.studio.listing import summary_metrics
from fledge.tracking.metrics_table import Table

# What complete_settings fills in for the data and the machine: no choice of the user
FILLED_IN = ("model.vocab_size", "model.attention", "train.threads", "train.device", "train.dtype", "data.path")


@dataclass(frozen=True)
class CheckpointInfo:
    step: int
    val_loss: float | None
    weights_only: bool  # training cannot continue from it
    scheduled: bool  # saved at a fixed step
    best: bool
    latest: bool
    bytes: int
    problem: str | None


@dataclass(frozen=True)
class SettingInfo:
    name: str
    value: str
    preset: str | None  # the value in the preset, where it differs


@dataclass(frozen=True)
class RunDetails:
    run: str
    folder: str
    method: str
    preset: str | None  # that the run was made from; None: not recorded
    checkpoints: list[CheckpointInfo]
    settings: list[SettingInfo]
    origin: dict[str, str]  # versions, machine, hashes
    plan: dict[str, Row] | None  # what was forecast, and what was measured so far; None: no forecast was recorded
    changed_files: list[str]  # edited since the run was made


def describe_run(run: RunFolder, table: Table) -> RunDetails:
    metadata, config = run.metadata(), run.config()
    preset = metadata.get("preset")
    return RunDetails(
        run=run.name,
        folder=str(run.folder),
        method=method_of(run),
        preset=preset if isinstance(preset, str) else None,
        checkpoints=list_checkpoints(run),
        settings=list_settings(config, preset_of(run, preset)),
        origin=flat({key: value for key, value in metadata.items() if key not in ("forecast", "preset", "format")}),
        plan=plan_and_reality(run, metadata.get("forecast"), table),
        changed_files=run.changed_files(),
    )


def list_checkpoints(run: RunFolder) -> list[CheckpointInfo]:
    """The newest first; damaged ones too, and what is wrong with them."""
    complete = {each.folder: each for each in store.complete_checkpoints(run.checkpoints)}
    best = store.best_of(list(complete.values()))
    latest = max((each.step for each in complete.values() if not each.weights_only), default=None)
    found = []
    for folder in reversed(store.checkpoint_folders(run.checkpoints)):
        size = folder_bytes(folder)
        if (each := complete.get(folder)) is None:
            step = int(folder.name.removeprefix(store.PREFIX))
            found.append(
                CheckpointInfo(step, None, False, False, False, False, size, "damaged: its manifest cannot be read")
            )
            continue
        is_best = best is not None and each.step == best.step
        facts = (each.step, each.val_loss, each.weights_only, each.scheduled, is_best, each.step == latest, size)
        found.append(CheckpointInfo(*facts, None))
    return found


def preset_of(run: RunFolder, preset: object) -> Layer | None:
    """The settings that the run started from; None where they are not known."""
    with contextlib.suppress(UserError, OSError):
        if (method := method_of(run)) != PRETRAIN:
            return read_align_preset(method)
        if isinstance(preset, str):
            return read_preset(preset)[0]
    return None


def list_settings(config: Layer, preset: Layer | None) -> list[SettingInfo]:
    """All settings of a run, and the preset's value of those that differ."""
    known = merge_layers(preset or {})
    shared = {name: {key: keys[key] for key in known.get(name, {}) if key in keys} for name, keys in config.items()}
    changes = {each.name: each for each in config_changes(known, shared) if each.after is not None}
    found = []
    for name, value in ((f"{section}.{key}", value) for section, keys in config.items() for key, value in keys.items()):
        differs = name in changes and name not in FILLED_IN
        found.append(SettingInfo(name, show_value(value), show_value(changes[name].before) if differs else None))
    return found


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Nested values as `sha256.config.toml` → text."""
    result: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{above}{key}.")
        elif value is not None:
            result[f"{above}{key}"] = str(value)
    return result


def plan_and_reality(run: RunFolder, forecast: object, table: Table) -> dict[str, Row] | None:
    if not isinstance(forecast, Mapping):
        return None
    with contextlib.suppress(UserError, KeyError, TypeError):
        return compare(forecast, run, summary_metrics(table, "train/step_seconds", "train/tokens_per_second"))
    return None
