"""All settings of a run in one value, and the checks that need more than one section."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from fledge.base.errors import UserError, nearest
from fledge.base.files import user_path
from fledge.base.settings import Layer, build, merge, read_overrides, read_toml
from fledge.datasets.config import DataConfig
from fledge.model.config import ModelConfig
from fledge.optim.config import OptimConfig
from fledge.tokens.config import TokenizerConfig
from fledge.track.config import TrackConfig
from fledge.train.config import TrainConfig


@dataclass(frozen=True)
class Settings:
    model: ModelConfig
    data: DataConfig
    tokenizer: TokenizerConfig
    optim: OptimConfig
    train: TrainConfig
    track: TrackConfig


def preset_files() -> dict[str, Path]:
    folder = Path(str(resources.files("fledge.presets")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read_preset(name_or_file: str, above: tuple[Path, ...] = ()) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """A preset's name or a file's path → its settings, and what it says about itself under [about]."""
    presets = preset_files()
    path = presets.get(name_or_file)
    if path is None:
        if not name_or_file.endswith(".toml"):
            hint = nearest(name_or_file, presets) or f"there are: {', '.join(presets)}; or give a FILE.toml"
            raise UserError(f"unknown preset '{name_or_file}'", hint)
        path = user_path(name_or_file)
    layer = read_toml(path)
    about = layer.pop("about", {})
    if "preset" in about:
        base = about["preset"]
        if not isinstance(base, str) or path.resolve() in above:
            raise UserError(f"'{path}': about.preset cannot be {base!r}", "name a preset, or another FILE.toml")
        under, _ = read_preset(base, (*above, path.resolve()))
        layer = merge(under, layer)
    return layer, about


def resolve(name_or_file: str, overrides: list[str]) -> Settings:
    layer, _ = read_preset(name_or_file)
    return settle(layer, read_overrides(overrides))


def settle(*layers: Layer) -> Settings:
    settings = build(Settings, merge(*layers))
    model, tokenizer = settings.model.vocab_size, settings.tokenizer.vocab_size
    trained = settings.data.path is None and settings.tokenizer.file is None  # else it is what it is, of any size
    if trained and model and tokenizer and model < tokenizer:
        raise UserError(
            f"model.vocab_size = {model} is smaller than tokenizer.vocab_size = {tokenizer}",
            "leave model.vocab_size out: it then follows the tokenizer",
        )
    return settings
