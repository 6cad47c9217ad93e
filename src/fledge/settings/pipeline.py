"""The settings of a run, in three stages: layers → scaling rules → validated.

1. layers          defaults < preset < file < --section.key value, merged             layers.py
2. scaling rules   model.size = "30M" → shape, vocabulary, learning rate, batch, …    scaling_rules.py
3. validated       frozen dataclasses that check themselves, and each other           here
"""

from dataclasses import asdict, fields, replace

from fledge.alignment.config import METHOD_SETTINGS
from fledge.core.config import Layer, build, refuse_unknown
from fledge.core.errors import UserError
from fledge.datasets.config import TRAINING_ONLY
from fledge.datasets.spec import with_own_splits
from fledge.model.lora import plain_config
from fledge.runs.run_folder import RunFolder
from fledge.settings.layers import merge_layers, read_preset
from fledge.settings.scaling_rules import apply_scaling_rules
from fledge.training.config import Settings


def resolve(preset: str, overrides: Layer | None = None) -> Settings:
    """The settings of a preset or a TOML file, with these overrides."""
    layer, _ = read_preset(preset)
    return validated(layer, overrides or {})


def init_layer(origin: RunFolder, preset: str | None, overrides: Layer) -> Layer:
    """The base of the settings of a run that starts from the weights of another: its model and tokenizer are kept.

    All else comes from the preset or file, or from the other run where there is none. Adapters of that run are merged.
    """
    sections = {field.name for field in fields(Settings)}
    own = {section: keys for section, keys in origin.config().items() if section in sections}
    layer = read_preset(preset)[0] if preset else own
    if not preset:
        layer["train"].pop("threads", None)  # those of another run, perhaps on another machine
    layer.setdefault("train", {})["ngram_steps"] = 0  # only new weights are fitted
    layer["train"]["context"] = own.get("train", {}).get("context")  # the weights were trained with it
    layer["model"] = asdict(plain_config(origin.model_config()))
    layer["tokenizer"] = {"file": str(origin.tokenizer_file.resolve())}
    if overrides.get("train", {}).get("ngram_steps", 0) not in (0, "0"):
        raise UserError(
            f"train.ngram_steps fits new weights, and this model starts from '{origin.name}'",
            "leave that setting out, or train without --init",
        )
    if unwanted := overrides.get("tokenizer"):
        raise UserError(
            f"tokenizer.{next(iter(unwanted))}: a model that starts from '{origin.name}' keeps its tokenizer",
            "leave that setting out, or train without --init",
        )
    return layer


def validated(*layers: Layer) -> Settings:
    """Layers, lowest first → settings. Raises UserError where anything is unknown, mistyped or impossible."""
    layer = merge_layers(*layers)
    kind = settings_class(layer)
    refuse_unknown(kind, layer, also=["model.size"])
    if len(layers) > 1:
        refuse_without_effect(layers[-1], layer.get("data", {}).get("path"))
    settings = build(kind, apply_scaling_rules(layer))
    if settings.data.path is None:
        settings = replace(settings, data=with_own_splits(settings.data.sources, settings.data))
    model, tokenizer = settings.model.vocab_size, settings.tokenizer.vocab_size
    trained_here = settings.data.path is None and settings.tokenizer.file is None  # else its size is given
    if trained_here and model and tokenizer and model < tokenizer:
        raise UserError(
            f"model.vocab_size = {model} is smaller than tokenizer.vocab_size = {tokenizer}",
            "leave model.vocab_size out: it then follows the tokenizer",
        )
    return settings


def settings_class(layer: Layer) -> type[Settings]:
    """An alignment run has an [align] section, and those of its method."""
    if "align" not in layer:
        return Settings
    method = layer["align"].get("method")
    if method not in METHOD_SETTINGS:
        raise UserError(f"align.method cannot be {method!r}", f"use one of {', '.join(METHOD_SETTINGS)}")
    return METHOD_SETTINGS[method]


def refuse_without_effect(overrides: Layer, path: str | None) -> None:
    """Refuse settings that are computed, and those of [data] that a dataset which is ready (`path`) was made with."""
    if overrides.get("optim", {}).get("steps_per_epoch") not in (None, "null"):
        raise UserError("optim.steps_per_epoch is computed from the text and the batch", "leave it out")
    given = overrides.get("data", {})
    if path in (None, "null"):
        return
    if given.get("corpus") not in (None, "null") and given.get("path") not in (None, "null"):
        hint = "leave data.path out to prepare the text, or data.corpus to use the dataset"
        raise UserError("data.corpus is a text and data.path a dataset: only one of them can be used", hint)
    for name in given:
        if name not in (*TRAINING_ONLY, "corpus"):
            raise UserError(
                f"data.{name} has no effect: '{path}' is a dataset, made with its own settings",
                f"make another one: fledge prepare TEXT --data.{name} {given[name]} --out NEW",
            )
