"""The settings of a run, in three stages: layers → scaling rules → validated.

1. layers          defaults < preset < file < --section.key value, merged             layers.py
2. scaling rules   model.size = "30M" → shape, vocabulary, learning rate, batch, …    scaling_rules.py
3. validated       frozen dataclasses that check themselves, and each other           here
"""

from fledge.core.config import Layer, build, refuse_unknown
from fledge.core.errors import UserError
from fledge.datasets.config import TRAINING_ONLY
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

    All else comes from the preset or file, or from the other run where there is none.
    """
    layer = read_preset(preset)[0] if preset else origin.config()
    if not preset:
        layer["train"].pop("threads", None)  # those of another run, perhaps on another machine
    layer["model"] = origin.config()["model"]
    layer["tokenizer"] = {"file": str(origin.tokenizer_file.resolve())}
    if unwanted := overrides.get("tokenizer"):
        raise UserError(
            f"tokenizer.{next(iter(unwanted))}: a model that starts from '{origin.name}' keeps its tokenizer",
            "leave that setting out, or train without --init",
        )
    return layer


def validated(*layers: Layer) -> Settings:
    """Layers, lowest first → settings. Raises UserError where anything is unknown, mistyped or impossible."""
    layer = merge_layers(*layers)
    refuse_unknown(Settings, layer, also=["model.size"])
    if len(layers) > 1:
        refuse_without_effect(layers[-1], layer.get("data", {}).get("path"))
    settings = build(Settings, apply_scaling_rules(layer))
    model, tokenizer = settings.model.vocab_size, settings.tokenizer.vocab_size
    trained_here = settings.data.path is None and settings.tokenizer.file is None  # else its size is given
    if trained_here and model and tokenizer and model < tokenizer:
        raise UserError(
            f"model.vocab_size = {model} is smaller than tokenizer.vocab_size = {tokenizer}",
            "leave model.vocab_size out: it then follows the tokenizer",
        )
    return settings


def refuse_without_effect(overrides: Layer, path: str | None) -> None:
    """Refuse settings of [data] that cannot apply, because a dataset that is ready (`path`) was made with its own."""
    given = overrides.get("data", {})
    if path in (None, "null"):
        return
    if given.get("corpus") not in (None, "null") and given.get("path") not in (None, "null"):
        hint = "leave data.path out to prepare the text, or data.corpus to use the dataset"
        raise UserError("data.corpus is a text and data.path a dataset: only one of them can be used", hint)
    for name in given:
        if name not in TRAINING_ONLY:
            raise UserError(
                f"data.{name} has no effect: '{path}' is a dataset, made with its own settings",
                f"make another one: fledge prepare TEXT --data.{name} {given[name]} --out NEW",
            )
