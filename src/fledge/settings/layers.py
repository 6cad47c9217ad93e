"""Stage 1 of the settings: presets and files read as layers, and merged.

A layer is plain data: section → key → value. A later layer wins, key by key.
"""

from collections.abc import Collection, Mapping
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any

from fledge.core.config import Layer, merge, read_toml
from fledge.core.errors import UserError, nearest
from fledge.core.files import user_path
from fledge.datasets.config import DataConfig
from fledge.training.config import Settings

# What follows from model.size. A layer that names a size replaces these settings of all lower layers.
FOLLOWS_FROM_SIZE = {
    "model": ("size", "n_layer", "n_head", "n_kv_head", "n_embd", "head_dim", "mlp_width"),
    "optim": ("lr", "min_lr", "warmup_steps", "decay_steps"),
    "train": ("steps", "epochs", "minutes", "step_limit", "batch", "micro_batch"),
}
# What belongs to a text. Where two layers name one (corpus or path), the higher replaces these settings of the lower.
FOLLOWS_FROM_TEXT = {
    "data": tuple(field.name for field in fields(DataConfig) if field.name not in ("stride", "order")),
    "track": ("prompt",),
}
# A layer that chooses a tokenizer replaces the model.vocab_size of all lower layers: it belongs to their tokenizer.
FOLLOWS_FROM_TOKENIZER = {"model": ("vocab_size",)}
# The two ways to set the length of a run: the highest layer that uses one replaces both settings of all lower layers,
# and their time, for which the length was planned.
LENGTHS = {"train": ("steps", "epochs")}
FOLLOWS_FROM_LENGTH = {"train": (*LENGTHS["train"], "minutes", "step_limit")}
# The two ways to hold out text, as a fraction and as a text of its own, likewise.
HELD_OUT = ({"data": ("val", "val_corpus")}, {"data": ("test", "test_corpus")})


def preset_files() -> dict[str, Path]:
    folder = Path(str(resources.files("fledge.presets")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read_preset(name_or_file: str, above: tuple[Path, ...] = ()) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The name of a preset or the path of a TOML file → (its settings, its [about] section).

    `about.preset` names the preset or file that it is based on; `above` are the files that are being read.
    """
    presets = preset_files()
    path = presets.get(name_or_file)
    if path is None:
        if not name_or_file.endswith(".toml"):
            hint = nearest(name_or_file, presets) or "fledge presets lists them; or give a FILE.toml"
            raise UserError(f"unknown preset '{name_or_file}'", hint)
        path = user_path(name_or_file)
    layer = read_toml(path)
    about = layer.pop("about", {})
    if "preset" in about:
        base = about["preset"]
        if not isinstance(base, str) or path.resolve() in above:
            raise UserError(f"'{path}': about.preset cannot be {base!r}", "name a preset, or another FILE.toml")
        base_layer, _ = read_preset(base, (*above, path.resolve()))
        layer = merge_layers(base_layer, layer)
    return layer, about


def read_align_preset(method: str) -> dict[str, dict[str, Any]]:
    """The settings of an alignment method, in presets/align/."""
    return read_toml(Path(str(resources.files("fledge.presets"))) / "align" / f"{method}.toml")


def merge_layers(*layers: Layer) -> dict[str, dict[str, Any]]:
    """Merge, lowest first; a layer with a size, a text, a tokenizer or a length also replaces what follows from it."""
    result: dict[str, dict[str, Any]] = {}
    for layer in layers:
        if "size" in layer.get("model", {}):
            result = without(result, FOLLOWS_FROM_SIZE)
        if names_text(layer) and names_text(result):
            result = without(result, FOLLOWS_FROM_TEXT)
        if any(layer.get("tokenizer", {}).get(key) not in (None, "null") for key in ("kind", "file", "vocab_size")):
            result = without(result, FOLLOWS_FROM_TOKENIZER)
        if sets_length(layer):
            result = without(result, FOLLOWS_FROM_LENGTH)
        for pair in HELD_OUT:
            if any(layer.get("data", {}).get(key) not in (None, "null") for key in pair["data"]):
                result = without(result, pair)
        result = merge(result, layer)
    return result


def names_text(layer: Layer) -> bool:
    return any(layer.get("data", {}).get(key) not in (None, "null") for key in ("corpus", "path"))


def sets_length(layer: Layer) -> bool:
    """Whether it sets train.steps or train.epochs; both together are refused."""
    given = [key for key in LENGTHS["train"] if layer.get("train", {}).get(key) not in (None, "null")]
    if len(given) > 1:
        raise UserError("train.steps and train.epochs both set the length of the run", "keep one of them")
    return bool(given)


def without_effect(settings: Settings) -> list[str]:
    """The settings that stay unused: the steps of a run whose length is given in epochs."""
    return ["train.steps"] if settings.train.epochs is not None else []


def without(layer: Layer, names: Mapping[str, Collection[str]]) -> dict[str, dict[str, Any]]:
    """The layer without these keys: section → keys."""
    return {
        section: {key: value for key, value in keys.items() if key not in names.get(section, ())}
        for section, keys in layer.items()
    }
