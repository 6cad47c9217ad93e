"""What may stand at the cursor: commands, options, settings with their values, presets, runs, files.

    candidates(["train", "demo", "--train.dt"])  →  ["--train.dtype"]

Everything is read off the parsers and the config dataclasses, so a new command or setting is completed at once. Neither
torch nor numpy is imported.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from fledge.alignment.config import METHOD_SETTINGS
from fledge.cli.main import SUMMARIES, load_command, make_parser
from fledge.settings.foreign_names import setting_names
from fledge.settings.layers import preset_files
from fledge.text.corpora import CORPORA
from fledge.training.config import Settings

PATHS = ("TEXT", "FILE", "SOURCE", "DIR", "FOLDER", "PATH")  # in a metavar: files and folders can be given


def candidates(words: Sequence[str]) -> list[str]:
    """The words that may replace the last one, which may be empty. words: what follows `fledge`."""
    *before, current = words or [""]
    if not before:
        return starting(current, SUMMARIES)
    if before[0] not in SUMMARIES:
        return []
    if current == "=" or before[-1] == "=":  # bash takes --key=value for three words
        option, prefix = (before[-1], "") if current == "=" else (before[-2], current)
        return starting(prefix, values_of(before[0], option, before, prefix))
    if current.startswith("--") and "=" in current:
        option, _, prefix = current.partition("=")
        values = starting(prefix, values_of(before[0], option, before, prefix))
        return [f"{option}={value}" for value in values]
    if before[-1].startswith("--") and (found := values_of(before[0], before[-1], before, current)) is not None:
        return starting(current, found)
    parser = find_parser(before)
    options = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    if getattr(load_command(before[0]), "TAKES_SETTINGS", False):
        names = [*setting_names(settings_class(before)), "model.size"]
        options = [*(o for o in options if "." not in o), *(f"--{name}" for name in names)]
    if current.startswith("-"):
        return starting(current, options)
    positional = [action for action in parser._actions if not action.option_strings]
    return starting(current, [value for action in positional for value in values_for(action, before, current)])


def find_parser(before: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the command, or of its subcommand if one is given."""
    parser: argparse.ArgumentParser = make_parser(before[0])
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return next((action.choices[word] for word in before[1:] if word in action.choices), parser)
    return parser


def settings_class(before: Sequence[str]) -> type[Settings]:
    """Those of the method, after `fledge align METHOD`."""
    methods = METHOD_SETTINGS if before[0] == "align" else {}
    return next((methods[word] for word in before[1:] if word in methods), Settings)


def values_of(command: str, option: str, before: Sequence[str], current: str) -> list[str] | None:
    """The values of an option or a setting; None where it takes none."""
    if "." in option:
        return setting_values(option.removeprefix("--"), settings_class([command, *before[1:]]), current)
    for action in find_parser([command, *before[1:]])._actions:
        if option in action.option_strings:
            return None if action.nargs == 0 else values_for(action, before, current)
    return None


def values_for(action: argparse.Action, before: Sequence[str], current: str) -> list[str]:
    found, names = [], str(action.metavar).split("|")
    if action.choices is not None:
        return names if action.metavar else [*action.choices]
    if "RUN" in names:
        found += run_names(runs_folder(before))
    if "PRESET" in names:
        found += [*preset_files()]
    if "CORPUS" in names:
        found += [*CORPORA]
    if "KIND" in names:
        found += ["bpe", "char", "gpt2", "p50k"]
    if any(name.split(".")[0] in PATHS for name in names):
        found += paths(current)
    return found


def setting_values(name: str, settings: type[Settings], current: str) -> list[str]:
    """The values of a setting with few of them; files for one that names a text."""
    section, _, key = name.partition(".")
    config = get_type_hints(settings).get(section)
    kind = get_type_hints(config).get(key) if config else None
    if name in ("data.corpus", "data.val_corpus", "data.test_corpus", "data.path", "tokenizer.file"):
        return paths(current)
    if name == "track.loggers":
        from fledge.tracking.loggers import LOGGERS

        return [*LOGGERS]
    if name == "train.device":
        return ["auto", "cpu", "cuda", "mps"]
    return [*literals(kind)]


def literals(kind: object) -> Iterable[str]:
    if kind is bool:
        yield from ("true", "false")
    elif get_origin(kind) is Literal:
        yield from map(str, get_args(kind))
    else:
        for each in get_args(kind):
            yield from literals(each)


def runs_folder(before: Sequence[str]) -> Path:
    """The folder that --runs names."""
    given = [before[at + 1] for at, word in enumerate(before[:-1]) if word == "--runs"]
    given += [word.partition("=")[2] for word in before if word.startswith("--runs=")]
    return Path(given[-1] if given else "runs")


def run_names(runs: Path) -> list[str]:
    return sorted(path.parent.name for path in runs.glob("*/config.toml") if not path.parent.name.startswith("."))


def paths(current: str) -> list[str]:
    """Files and folders that begin so; a folder ends in a slash."""
    folder, _, name = current.rpartition("/")
    root = Path(folder or ("/" if current.startswith("/") else ".")).expanduser()
    found = [each for each in root.iterdir() if not each.name.startswith(".") or name] if root.is_dir() else []
    above = f"{folder}/" if "/" in current else ""
    return sorted(f"{above}{each.name}{'/' * each.is_dir()}" for each in found)


def starting(prefix: str, words: Iterable[str] | None) -> list[str]:
    return [word for word in dict.fromkeys(words or ()) if word.startswith(prefix) and word.isprintable()]
