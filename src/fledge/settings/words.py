"""What the words after `fledge train` and `fledge plan` name: a preset or settings file, and text.

    demo · mine.toml               a preset · a settings file
    notes/  'logs/*.txt'  https://…  hf://…  shakespeare  book.txt:0.3       text, as `fledge prepare` takes it
    data/notes                     a dataset that `fledge prepare` has made

A preset and text may stand together: the text then replaces that of the preset. Text alone means the preset `text`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fledge.core.config import Layer, merge
from fledge.core.errors import UserError, nearest
from fledge.core.files import nearest_file, user_path
from fledge.core.progress import notice
from fledge.datasets.shards import MANIFEST
from fledge.runs.names import run_name_from
from fledge.runs.run_folder import CHECKPOINTS, CONFIG, find_run
from fledge.settings.layers import names_text, preset_files
from fledge.text.corpora import CORPORA
from fledge.text.inputs import is_url
from fledge.text.local_files import GLOB_CHARS
from fledge.text.sources import split_weight

TEXT_PRESET = "text"
DEFAULT_MINUTES = 5.0  # for a text without a preset


@dataclass(frozen=True)
class Choice:
    preset: str | None  # or the path of a settings file; None: no word names one
    overrides: Layer  # with the text that the words name
    run_name: str  # for a new run

    @property
    def is_text_alone(self) -> bool:
        return self.preset is None and names_text(self.overrides)

    @property
    def default_minutes(self) -> float | None:
        """The time for a text alone; None where a preset or a setting gives the length."""
        given = {"steps", "epochs"} & set(self.overrides.get("train", {}))
        return DEFAULT_MINUTES if self.is_text_alone and not given else None

    def refuse_empty(self, command: str) -> None:
        """command: `train` or `plan`."""
        if self.preset is None and not self.is_text_alone:
            raise UserError("no text and no preset is given", f"give {what_to_give(command)}")


def choose(words: Sequence[str], overrides: Layer | None = None, runs: Path = Path("runs")) -> Choice:
    """Sort the words into preset and text, and put the text into [data] of the overrides. Refuse the name of a run."""
    overrides = overrides or {}
    presets = [word for word in words if is_preset(word)]
    sources = [word for word in words if word not in presets]
    for source in sources:
        if not Path(source).exists() and find_run(source, runs):
            raise run_given(source)
    if len(presets) > 1:
        raise UserError(f"more than one preset or settings file: {', '.join(presets)}", "give one of them")
    if sources and names_text(overrides):
        raise UserError(f"the text is given twice: {sources[0]}, and a setting of [data]", "give it once")
    if sources:
        overrides = merge(overrides, {"data": text_layer(sources)})
    preset = presets[0] if presets else None
    return Choice(preset, overrides, run_name_from(preset) if preset else text_name(overrides))


def is_preset(word: str) -> bool:
    """Whether it is the name of a preset, or ends as a settings file does."""
    if word not in preset_files():
        return word.endswith(".toml")
    if Path(word).exists():
        if word == TEXT_PRESET:  # the preset of all text
            return False
        notice(f"'{word}' is taken as the preset; the text of that name is ./{word}")
    return True


def text_layer(sources: Sequence[str]) -> dict[str, Any]:
    """The [data] settings for these sources, each of which must exist, as far as that is known without a network."""
    for source in sources:
        check_source(source)
    datasets = [source for source in sources if is_dataset(source)]
    if datasets and len(sources) > 1:
        hint = "prepare all of the text together: fledge prepare SOURCE… --out DIR"
        raise UserError(f"'{datasets[0]}' is a prepared dataset, which cannot be mixed with other text", hint)
    if datasets:
        return {"path": sources[0]}
    return {"corpus": sources[0] if len(sources) == 1 else tuple(sources)}


def is_dataset(source: str) -> bool:
    return not is_url(source) and (user_path(source) / MANIFEST).exists()


def check_source(source: str) -> None:
    bare, _ = split_weight(source)
    path = user_path(bare)
    if (path / CONFIG).exists() and (path / CHECKPOINTS).exists():
        raise run_given(source)
    if is_url(bare) or path.exists() or GLOB_CHARS.search(bare) or bare in CORPORA:
        return
    if "/" in bare or path.suffix:
        raise UserError(
            f"no such file or folder: '{bare}'", nearest_file(path) or f"check the path, or give {what_to_give()}"
        )
    known = [*preset_files(), *CORPORA, *names_in(path.parent)]
    longer = next((f"did you mean '{name}'?" for name in known if name.startswith(bare)), "")
    raise UserError(
        f"there is no preset, file or folder '{bare}'", nearest(bare, known) or longer or f"give {what_to_give()}"
    )


def what_to_give(command: str = "train") -> str:
    preset = f"a preset: fledge {command} demo (fledge presets lists all)"
    return f"a text: fledge {command} my-notes/; {preset}; or a FILE.toml"


def run_given(name: str) -> UserError:
    return UserError(f"'{name}' is a run", f"continue it: fledge resume {name}, or start from it: --init {name}")


def names_in(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir() if not each.name.startswith(".")] if folder.is_dir() else []


def text_name(overrides: Layer) -> str:
    """A name for a run on this text."""
    data = overrides.get("data", {})
    named = data.get("path") or data.get("corpus") or ""
    source = split_weight(named if isinstance(named, str) else named[0])[0] if named else ""
    path = Path(source)
    return run_name_from(path.resolve().name if path.is_dir() else GLOB_CHARS.split(source)[0] or source)
