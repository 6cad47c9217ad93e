"""The settings of a run, in three stages: layers → scaling rules → validated.

1. layers          defaults < preset < file < --section.key value, merged             layers.py
2. scaling rules   model.size = "30M" → shape, vocabulary, learning rate, batch, …    scaling_rules.py
3. validated       frozen dataclasses that check themselves, and each other           here
"""

from fledge.core.config import Layer, build, refuse_unknown
from fledge.core.errors import UserError
from fledge.runs.run_folder import RunFolder
from fledge.settings.layers import merge_layers, read_preset
from fledge.settings.scaling_rules import apply_scaling_rules
from fledge.training.config import Settings


def resolve(preset: str, overrides: Layer | None = None) -> Settings:
    """The settings of a preset or a TOML file, with these overrides."""
    layer, _ = read_preset(preset)
    return validated(layer, overrides or {})


def resolve_init(origin: RunFolder, preset: str | None, overrides: Layer) -> Settings:
    """The settings of a training run that starts from the weights of another run, whose model and tokenizer it keeps.

    All else comes from the preset or file, or from the other run where there is none.
    """
    layer = read_preset(preset)[0] if preset else origin.config()
    layer["model"] = origin.config()["model"]
    layer["tokenizer"] = {"file": str(origin.tokenizer_file.resolve())}
    if unwanted := overrides.get("tokenizer"):
        raise UserError(
            f"tokenizer.{next(iter(unwanted))}: a model that starts from '{origin.name}' keeps its tokenizer",
            "leave that setting out, or train without --init",
        )
    return validated(layer, overrides)


def validated(*layers: Layer) -> Settings:
    """Layers, lowest first → settings. Raises UserError where anything is unknown, mistyped or impossible."""
    layer = merge_layers(*layers)
    refuse_unknown(Settings, layer, also=["model.size"])
    settings = build(Settings, apply_scaling_rules(layer))
    model, tokenizer = settings.model.vocab_size, settings.tokenizer.vocab_size
    trained_here = settings.data.path is None and settings.tokenizer.file is None  # else its size is given
    if trained_here and model and tokenizer and model < tokenizer:
        raise UserError(
            f"model.vocab_size = {model} is smaller than tokenizer.vocab_size = {tokenizer}",
            "leave model.vocab_size out: it then follows the tokenizer",
        )
    return settings
