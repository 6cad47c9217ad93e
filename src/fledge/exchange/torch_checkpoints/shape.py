"""The shape of a checkpoint's model: from its tensors, the settings in the file, and a preset."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fledge.core.errors import UserError
from fledge.core.progress import notice
from fledge.exchange.hf_config import build_model_config
from fledge.exchange.names import QUERY
from fledge.exchange.torch_checkpoints.contents import Checkpoint
from fledge.exchange.torch_checkpoints.programs import BIASES, Program
from fledge.exchange.torch_file import DOWNLOAD_AGAIN
from fledge.model.config import ModelConfig
from fledge.settings.presets import preset_settings

MAX_CONTEXT = 1 << 20  # of positions that are computed, so no tensor bounds them


@dataclass(frozen=True)
class GivenShape:
    """What the user says of a model whose file does not say it."""

    preset: str | None = None
    n_head: int | None = None


def model_config(checkpoint: Checkpoint, program: Program, given: GivenShape, source: str) -> ModelConfig:
    tensors = _Tensors(checkpoint.tensors, program, source)
    measured = tensors.settings()
    settings = {**program.parts, **measured, **_saved_settings(checkpoint, program, measured, source)}
    context = settings.get("context")
    if context is None:
        raise UserError(f"'{source}' does not say its context length", DOWNLOAD_AGAIN)
    if isinstance(context, int) and context > MAX_CONTEXT:
        raise UserError(f"'{source}' says a context of {context:,} tokens, which no model has", DOWNLOAD_AGAIN)
    settings |= _heads(settings, program, given, source)
    width, heads = tensors.query_width(), settings["n_head"]
    if isinstance(heads, int) and heads > 0 and width % heads == 0 and width != settings["n_embd"]:
        settings["head_dim"] = width // heads
    return build_model_config(settings, source)


class _Tensors:
    """The sizes of the tensors, by our names."""

    def __init__(self, tensors: Mapping[str, Tensor], program: Program, source: str) -> None:
        self._tensors, self._program, self._source = tensors, program, source
        self._row = {ours: row for row in program.names.unrolled(1) for ours in row.ours}

    def settings(self) -> dict[str, Any]:
        vocab_size, n_embd = self._matrix("embed")
        found = {"n_layer": self._blocks(), "n_embd": n_embd, "vocab_size": vocab_size}
        found["mlp_width"] = self._matrix("blocks.0.mlp.up")[0]
        if "positions" in self._row:
            found["context"] = self._matrix("positions")[0]
        if BIASES[0] not in self._program.parts:
            found |= dict.fromkeys(BIASES, f"{self._row['blocks.0.mlp.up'].theirs}.bias" in self._tensors)
        return found

    def query_width(self) -> int:
        name = f"blocks.0.{QUERY}"
        return self._matrix(name)[0] // len(self._row[name].ours)

    def _matrix(self, ours: str) -> tuple[int, int]:
        name = f"{self._row[ours].theirs}.weight"
        if name not in self._tensors:
            raise UserError(f"'{self._source}' lacks the tensor '{name}' of {self._program.name}", DOWNLOAD_AGAIN)
        shape = self._tensors[name].shape
        if len(shape) != 2 or 0 in shape:
            raise UserError(f"'{name}' of '{self._source}' has shape {list(shape)}, and is no matrix", DOWNLOAD_AGAIN)
        return shape[0], shape[1]

    def _blocks(self) -> int:
        """How many blocks there are, whatever their numbers: a missing one is found later, by its name."""
        before = next(row.theirs for row in self._program.names.rows if ".N." in row.theirs).partition(".N.")[0]
        pattern = re.compile(rf"{re.escape(before)}\.(\d+)\.")
        return len({match[1] for name in self._tensors if (match := pattern.match(name))})


def _saved_settings(
    checkpoint: Checkpoint, program: Program, measured: Mapping[str, Any], source: str
) -> dict[str, Any]:
    """The settings in the file. They must agree with its tensors."""
    said = {ours: (key, checkpoint.settings[key]) for ours, key in program.saved.items() if key in checkpoint.settings}
    for ours, (key, value) in said.items():
        if ours in measured and (type(value) is not int or value != measured[ours]):
            raise UserError(
                f"'{source}' says {key} = {value!r}, but its tensors are those of {measured[ours]}", DOWNLOAD_AGAIN
            )
    return {ours: value for ours, (_, value) in said.items()}


def _heads(settings: Mapping[str, Any], program: Program, given: GivenShape, source: str) -> dict[str, Any]:
    """n_head, which no tensor tells: from the file, from the user, or from the published preset of this shape."""
    asked = given.n_head
    if given.preset:
        preset, _ = preset_settings(given.preset)
        _check_preset(preset.model, settings, given.preset, source)
        if asked not in (None, preset.model.n_head):
            raise UserError(
                f"--preset {given.preset} has {preset.model.n_head} heads, and --model.n_head is {asked}", "give one"
            )
        asked = preset.model.n_head
    if "n_head" in settings:
        if asked not in (None, settings["n_head"]):
            raise UserError(f"'{source}' has {settings['n_head']} heads, not {asked}", "leave out their number")
        return {}
    if asked is not None:
        return {"n_head": asked}
    for name in program.presets:
        published, _ = preset_settings(name)
        if _shape(published.model) == {key: settings[key] for key in SHAPE}:
            notice(f"{published.model.n_head} heads, as in the preset {name}, whose shape '{source}' has")
            return {"n_head": published.model.n_head}
    raise UserError(
        f"'{source}' does not say how many attention heads the model has: {program.name} does not save it",
        "give their number: --model.n_head N; or the preset that it was trained by: --preset NAME",
    )


SHAPE = ("n_layer", "n_embd", "context", "vocab_size", "mlp_width")


def _shape(model: ModelConfig) -> dict[str, Any]:
    sizes = {key: getattr(model, key) for key in SHAPE}
    return {**sizes, "mlp_width": model.mlp_hidden_width}


def _check_preset(model: ModelConfig, settings: Mapping[str, Any], preset: str, source: str) -> None:
    for key in ("n_layer", "n_embd"):
        if getattr(model, key) != settings[key]:
            raise UserError(
                f"preset {preset} has {key} = {getattr(model, key)}, but the model of '{source}' has {settings[key]}",
                "give another preset, or the number of heads alone: --model.n_head N",
            )
