"""The files of this machine that a path or a glob means: which are text, and of what kind the others are.

Datasets and runs of fledge are not text, although some of their files are.
"""

import json
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fledge.core.errors import UserError
from fledge.text.formats import is_text
from fledge.text.kinds import file_kind

GLOB_CHARS = re.compile(r"[*?\[]")
MADE_OF_IDS = re.compile(r"(.*_)?train(_\d+)?\.bin")  # nanoGPT's and llm.c's names
MANIFESTS = {"dataset.json": "dataset", "run.json": "run"}


@dataclass(frozen=True)
class Listing:
    """The text files below `root`, and the other files with their kinds."""

    root: Path
    files: list[Path]
    skipped: list[tuple[Path, str]]


def list_local(path: Path) -> Listing:
    """A file; the files below a folder; or those that match a glob. Sorted by path."""
    if path.is_file():
        if path.name in MANIFESTS:
            refuse_made_by_fledge(path.parent)
        return Listing(path.parent, [path], [])
    if path.is_dir():
        refuse_made_by_fledge(path)
        root, found = path, path.rglob("*")
    elif path.exists():
        raise UserError(f"'{path}' is a pipe or a device, and text is read more than once", "save it in a file first")
    elif any("**" in part != "**" for part in path.parts):
        raise UserError(f"'{path}': ** stands for whole folders", "write it between slashes: logs/**/*.txt")
    else:
        first_glob = next(i for i, part in enumerate(path.parts) if GLOB_CHARS.search(part))
        root = Path(*path.parts[:first_glob])
        found = root.glob(str(Path(*path.parts[first_glob:])))
    made = cache(made_by_fledge)
    kinds = [(file, skipped_kind(file, root, made)) for file in sorted(found) if file.is_file()]
    files = [file for file, kind in kinds if kind is None]
    skipped = [(file, kind) for file, kind in kinds if kind is not None]
    if not files and not path.is_dir():
        raise UserError(f"no text file matches '{path}'", "check the pattern; ** matches folders at any depth")
    return Listing(root, files, skipped)


def skipped_kind(file: Path, root: Path, made: Callable[[Path], str | None]) -> str | None:
    """What the file is if it is not read as text."""
    inside = file.relative_to(root)
    if is_hidden(inside.parts):
        return "hidden"
    if kind := next(filter(None, (made(root / folder) for folder in inside.parents)), None):
        return f"of a {kind}"
    if not file.stat().st_size:
        return "empty"
    try:
        return None if is_text(file) else file_kind(file.name)
    except PermissionError:
        return "not permitted to read"


def is_hidden(parts: Iterable[str]) -> bool:
    return any(part.startswith(".") for part in parts)


def refuse_made_by_fledge(folder: Path) -> None:
    """Refuse a dataset or a run that is given as text."""
    made, quoted = made_by_fledge(folder), shlex.quote(str(folder))
    if made == "dataset":
        raise UserError(f"'{folder}' is a dataset, not text", f"use it as one: fledge train {quoted}")
    if made == "run":
        hint = f"to start from its weights: fledge train TEXT --init {quoted}"
        raise UserError(f"'{folder}' is a run, not text", hint)
    if any(MADE_OF_IDS.fullmatch(file.name) for file in folder.glob("*.bin")):
        hint = f"use it as one: --data.path {quoted} --tokenizer.kind gpt2; or name the text file inside it"
        raise UserError(f"'{folder}' is a dataset of token ids (.bin), not text", hint)


def made_by_fledge(folder: Path) -> str | None:
    """`dataset` or `run`, if the folder is one."""
    for name, kind in MANIFESTS.items():
        try:
            content = json.loads((folder / name).read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(content, dict) and "format" in content:
            return kind
    return None
