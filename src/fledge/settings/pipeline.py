"""All settings of a run in one value, and the checks that need more than one section."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge.core.config import Layer, build, merge, read_overrides, read_toml, refuse_unknown
from fledge.core.errors import UserError, nearest
from fledge.core.files import user_path
from fledge.settings import scaling_rules
from fledge.tokenizers.config import GPT2_VOCABULARY
from fledge.training.config import Settings

if TYPE_CHECKING:
    from fledge.runs.run_folder import RunFolder

CHARACTERS = 128  # as a guess, until the text is seen


def preset_files() -> dict[str, Path]:
    folder = Path(str(resources.files("fledge.presets")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read_preset(name_or_file: str, above: tuple[Path, ...] = ()) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
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
        layer = merge_layers(under, layer)
    return layer, about


def resolve(name_or_file: str, overrides: list[str]) -> Settings:
    layer, _ = read_preset(name_or_file)
    return validated(layer, read_overrides(overrides))


def resolve_init(origin: "RunFolder", name_or_file: str | None, overrides: list[str]) -> Settings:
    """Settings of a training that starts from another run's weights: model and tokenizer are those of that run.

    All else comes from the preset or file, or from the other run where there is none.
    """
    layer = read_preset(name_or_file)[0] if name_or_file else origin.config()
    layer["model"] = origin.config()["model"]
    layer["tokenizer"] = {"file": str(origin.tokenizer_file.resolve())}
    over = read_overrides(overrides)
    if unwanted := over.get("tokenizer"):
        raise UserError(
            f"tokenizer.{next(iter(unwanted))}: a model that starts from '{origin.name}' keeps its tokenizer",
            "leave that setting out, or train without --init",
        )
    if "corpus" in over.get("data", {}):
        layer["data"] = {key: value for key, value in layer.get("data", {}).items() if key != "path"}
    return validated(layer, over)


def validated(*layers: Layer) -> Settings:
    layer = merge_layers(*layers)
    refuse_unknown(Settings, layer, also=["model.size"])
    settings = build(Settings, apply_scaling_rules(layer))
    model, tokenizer = settings.model.vocab_size, settings.tokenizer.vocab_size
    trained = settings.data.path is None and settings.tokenizer.file is None  # else it is what it is, of any size
    if trained and model and tokenizer and model < tokenizer:
        raise UserError(
            f"model.vocab_size = {model} is smaller than tokenizer.vocab_size = {tokenizer}",
            "leave model.vocab_size out: it then follows the tokenizer",
        )
    return settings


def merge_layers(*layers: Layer) -> dict[str, dict[str, Any]]:
    """Later layers win, key by key; and one that names a size wins with all that follows from it."""
    result: dict[str, dict[str, Any]] = {}
    for layer in layers:
        if "size" in layer.get("model", {}):
            result = without(result, scaling_rules.FOLLOWS)
        result = merge(result, layer)
    return result


def without(layer: Layer, names: Mapping[str, Collection[str]]) -> dict[str, dict[str, Any]]:
    return {
        section: {key: value for key, value in keys.items() if key not in names.get(section, ())}
        for section, keys in layer.items()
    }


def apply_scaling_rules(layer: Layer) -> Layer:
    """With all that follows from `model.size`, where there is one; what is set beside it stays as it is set."""
    if "size" not in layer.get("model", {}):
        return layer
    size, said = scaling_rules.read_size(layer["model"]["size"]), without(layer, {"model": ("size",)})
    kinds = build(Settings, without(said, scaling_rules.FOLLOWS))
    rung = scaling_rules.nearest_rung(size, kinds.model, known_vocabulary(kinds))
    shape = {key: value for key in scaling_rules.FOLLOWS["model"] if (value := getattr(rung, key, None)) is not None}
    said = merge({"model": shape, "tokenizer": {}}, said)
    if kinds.tokenizer.kind == "bpe":
        said["tokenizer"] = {"vocab_size": rung.vocab_size, **said["tokenizer"]}
    model = replace(build(Settings, {"model": said["model"]}).model, vocab_size=rung.vocab_size)
    given = {key: value for key, value in said.get("train", {}).items() if key in ("batch", "steps")}
    train = build(Settings, {"train": given}).train
    horizon = scaling_rules.horizon(model, **{key: getattr(train, key) for key in given})
    warmup = {"warmup_steps": horizon.pop("warmup_steps")}
    return merge({"optim": scaling_rules.rates(model) | warmup, "train": horizon}, said)


def expected_vocab_size(settings: Settings, about: Mapping[str, Any]) -> int:
    """Of a preset's model, before there is a text: by character a preset tells how many its own corpus has."""
    asked = settings.model.vocab_size or settings.tokenizer.vocab_size
    usual = about.get("vocab_size") if settings.tokenizer.kind == "char" else None
    return asked or usual or settings.tokenizer.size


def known_vocabulary(settings: Settings) -> int | None:
    """Where it is left to the dial, None. By character the text decides, and the table is small."""
    tokenizer = settings.tokenizer
    if settings.model.vocab_size or tokenizer.vocab_size:
        return settings.model.vocab_size or tokenizer.vocab_size
    return {"gpt2": GPT2_VOCABULARY, "char": CHARACTERS, "bpe": None}[tokenizer.kind]
