"""A run folder: where everything about one training lies, from the first moment on.

    config.toml   run.json   tokenizer.json   metrics.csv   events.jsonl   samples.md   checkpoints/   plots/

Here it is made, found by name, and read. A run is called `NAME`, `NAME@best`, `NAME@latest`, `NAME@1000` or by path.
What never changes is sealed: run.json holds the SHA-256 of config.toml and of tokenizer.json, and its own.
"""

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fledge.checkpoint import store
from fledge.checkpoint.state import State, load_weights
from fledge.core.checksums import CHECKSUM_KEY, verify, with_checksum
from fledge.core.config import read_toml
from fledge.core.errors import UserError, nearest
from fledge.core.files import atomic_folder, file_lock, read_json, sha256, user_path, write_atomic
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.tokenizers.base import Tokenizer, load_tokenizer, save_tokenizer

CONFIG = "config.toml"
METADATA = "run.json"
TOKENIZER = "tokenizer.json"
HASHED, HASHES = (CONFIG, TOKENIZER), "sha256"  # under which name their hashes stand in FACTS
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class RunFolder:
    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def checkpoints(self) -> Path:
        return self.folder / CHECKPOINTS

    @property
    def tokenizer_file(self) -> Path:
        return self.folder / TOKENIZER

    def alone(self) -> AbstractContextManager[None]:
        """For the time of the block no other process writes into this run."""
        busy = UserError(f"'{self.name}' is being trained by another process", "wait for it, or stop it first")
        return file_lock(self.folder / ".lock", busy)

    def config(self) -> dict[str, dict[str, Any]]:
        return read_toml(self.folder / CONFIG)

    def facts(self) -> dict[str, Any]:
        return read_json(self.folder / METADATA, "the run's record")

    def fact(self, key: str) -> str:
        value = self.facts().get(key)
        if not isinstance(value, str):
            raise UserError(f"'{self.folder / METADATA}' is damaged: it lacks {key}", "restore it from a copy")
        return value

    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.tokenizer_file)

    def changed(self) -> list[str]:
        """The files that are not what they were when the run was made. Of older runs, without a seal, nobody knows."""
        facts = self.facts()
        if not verify((self.folder / METADATA).read_bytes(), indent=1):
            return [METADATA]
        hashes = facts.get(HASHES)
        return [name for name in HASHED if isinstance(hashes, dict) and _hash(self.folder / name) != hashes.get(name)]

    def refuse_changed(self) -> None:
        """Before a run is trained on or answers for itself: a rate or a letter that flipped shows nowhere else."""
        if changed := self.changed():
            files = ", ".join(f"'{self.folder / name}'" for name in changed)
            meant = f"; if the change is meant: fledge resume {self.name} --allow-changes"
            raise UserError(
                f"damaged, or edited since the run was made: {files}",
                f"restore it from a copy{meant if changed == [CONFIG] else ''}",
            )

    def take_on(self, config: str) -> None:
        """From now on with these settings; only for who has shown the difference and was told to go on."""
        write_atomic(self.folder / CONFIG, config)
        facts = {name: value for name, value in self.facts().items() if name != CHECKSUM_KEY}
        hashes = {**facts.get(HASHES, {}), CONFIG: sha256(self.folder / CONFIG)}
        write_atomic(self.folder / METADATA, with_checksum({**facts, HASHES: hashes}, indent=1))

    def model_config(self) -> ModelConfig:
        """The run's [model] section; every run is written with all of it."""
        try:
            model = ModelConfig(**self.config()["model"])
        except (KeyError, TypeError):
            model = None
        if model is None or model.vocab_size is None:
            raise UserError(f"'{self.folder / CONFIG}' is damaged", "restore it from a copy")
        return model


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A trained model, ready to be asked."""

    run: RunFolder
    model: GPT
    tokenizer: Tokenizer
    checkpoint: store.Checkpoint
    warnings: list[str]


def create_run(
    folder: Path, config: str, facts: Mapping[str, Any], tokenizer: Tokenizer, start: State | None = None
) -> RunFolder:
    """A new run folder, whole from its first moment; `start` is where it begins, if it does not begin from nothing."""
    refuse_existing(folder)
    with atomic_folder(folder) as inside:
        (inside / CONFIG).write_text(config, encoding="utf-8")
        save_tokenizer(tokenizer, inside / TOKENIZER)
        hashes = {name: sha256(inside / name) for name in HASHED}
        (inside / METADATA).write_bytes(with_checksum({**facts, HASHES: hashes}, indent=1))
        (inside / CHECKPOINTS).mkdir()
        if start is not None:
            store.save(inside / CHECKPOINTS, start)
    return RunFolder(folder)


def _hash(path: Path) -> str | None:
    with contextlib.suppress(FileNotFoundError):
        return sha256(path)
    return None


def refuse_existing(folder: Path) -> None:
    if folder.exists():
        raise UserError(
            f"a run named '{folder.name}' exists already in '{folder.parent}'",
            f"choose another --run NAME, or go on with it: fledge resume {folder.name}",
        )


def free_name(runs: Path, wanted: str) -> str:
    """`wanted`, or `wanted-2`, `wanted-3` …: the first that no run has."""
    name, number = wanted, 1
    while (runs / name).exists():
        number += 1
        name = f"{wanted}-{number}"
    return name


def split_reference(reference: str, otherwise: str = "latest") -> tuple[str, str]:
    """`NAME@which` → its two parts; a folder's own name may hold an @ too."""
    name, at, which = reference.rpartition("@")
    return (name, which) if at and "/" not in which else (reference, otherwise)


def open_path(name: str, runs: Path) -> RunFolder | None:
    folders = (runs / name, user_path(name or "."))
    return next((RunFolder(folder) for folder in folders if (folder / CONFIG).exists()), None)


def open_run(name: str, runs: Path) -> RunFolder:
    if run := open_path(name, runs):
        return run
    known = [run.name for run in list_runs(runs)]
    hint = nearest(name, known) or (f"there are: {', '.join(known)}" if known else "train one first: fledge demo")
    raise UserError(f"no run '{name}' in '{runs}'", hint)


def list_runs(runs: Path) -> list[RunFolder]:
    """Oldest first."""
    configs = sorted(runs.glob(f"*/{CONFIG}"), key=lambda path: (path.stat().st_mtime, path))
    return [RunFolder(path.parent) for path in configs if not path.parent.name.startswith(".")]


def load_run(reference: str, runs: Path, device: str = "cpu") -> LoadedCheckpoint:
    """The model that a reference names. `best` is meant where nothing is said: it is what people want to talk to."""
    name, which = split_reference(reference, otherwise="best")
    run = open_run(name, runs)
    run.refuse_changed()
    checkpoint, damaged = store.find_checkpoint(run.checkpoints, which)
    model = GPT(run.model_config())
    load_weights(model, store.load_weights(checkpoint))
    warnings = [f"{what}; using step {checkpoint.step}" for what in damaged]
    return LoadedCheckpoint(run, model.to(device).eval(), run.tokenizer(), checkpoint, warnings)
