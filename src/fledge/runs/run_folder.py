"""The layout of a run folder, and how a run is created and opened.

    config.toml   run.json   tokenizer.json   metrics.csv   events.jsonl   samples.md   checkpoints/   plots/
    evaluations.jsonl (fledge eval)   report.html, report.md (fledge report)

`open_run` is the one way to open a run. A reference names it and one of its checkpoints: `NAME`, `NAME@best`,
`NAME@latest`, `NAME@1000`, with a path in place of NAME, or None for the latest run:

    run = open_run("hamlet@best", Path("runs"))
    run.config();  run.checkpoint();  run.load(device).model

The run of an imported chat model has a tokenizer_config.json (Hugging Face's format) with its chat template. run.json
holds the SHA-256 of config.toml, tokenizer.json and tokenizer_config.json, and its own checksum.
"""

import contextlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge.checkpoint import store
from fledge.checkpoint.state import State, load_weights, plain_weights
from fledge.core.checksums import CHECKSUM_KEY, verify, with_checksum
from fledge.core.config import Layer, build_section, read_toml
from fledge.core.distributed import SINGLE_PROCESS, World
from fledge.core.errors import UserError, nearest
from fledge.core.files import (
    atomic_folder,
    file_lock,
    is_file_locked,
    read_json,
    sha256,
    to_json,
    user_path,
    write_atomic,
)
from fledge.core.progress import notice
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build_for_loading
from fledge.model.lora import plain_config
from fledge.runs.names import path_word, run_word
from fledge.tokenizers.base import Tokenizer, load_tokenizer, save_tokenizer
from fledge.tracking.events import Started, StepsPlanned
from fledge.tracking.sinks.jsonl import read_events

if TYPE_CHECKING:
    from fledge.tokenizers.chat_template import ChatTemplate

CONFIG = "config.toml"
METADATA = "run.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHECKPOINTS = "checkpoints"
LOCK = ".lock"
FORMAT = 1  # of run.json
HASHED, HASHES = (CONFIG, TOKENIZER, TOKENIZER_CONFIG), "sha256"  # run.json has their hashes under this key


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A trained model in evaluation mode, with its tokenizer."""

    run: "RunFolder"
    model: GPT
    tokenizer: Tokenizer
    checkpoint: store.Checkpoint


@dataclass(frozen=True)
class RunFolder:
    folder: Path
    selector: str = "latest"  # checkpoint that the reference named: latest, best or a step

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def reference(self) -> str:
        """How a command names this run."""
        return run_word(self.folder)

    @property
    def path_word(self) -> str:
        return path_word(self.folder)

    @property
    def checkpoints(self) -> Path:
        return self.folder / CHECKPOINTS

    @property
    def tokenizer_file(self) -> Path:
        return self.folder / TOKENIZER

    def lock(self, world: World = SINGLE_PROCESS) -> AbstractContextManager[None]:
        """No other process writes into this run during the block. In a process group, the main process locks."""
        if not world.is_main:
            return contextlib.nullcontext()
        busy = UserError(f"'{self.name}' is being trained by another process", "wait for it, or stop it first")
        return file_lock(self.folder / LOCK, busy)

    def is_locked(self) -> bool:
        """Whether a process trains this run now."""
        return is_file_locked(self.folder / LOCK)

    def config(self) -> dict[str, dict[str, Any]]:
        return read_toml(self.folder / CONFIG)

    def metadata(self) -> dict[str, Any]:
        found = read_json(self.folder / METADATA, "the run's metadata")
        if isinstance(version := found.get("format"), int) and version > FORMAT:
            raise UserError(
                f"'{self.folder / METADATA}' was made by a newer version of fledge, or is damaged: its format is"
                f" {version}, and this one reads {FORMAT}",
                "pip install --upgrade fledge, or restore it from a copy",
            )
        return found

    def metadata_value(self, key: str) -> str:
        value = self.metadata().get(key)
        if not isinstance(value, str):
            raise UserError(f"'{self.folder / METADATA}' is damaged: '{key}' is missing", "restore it from a copy")
        return value

    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.tokenizer_file)

    def chat_template(self) -> "ChatTemplate | None":
        """None: the model was not trained on conversations."""
        from fledge.tokenizers.chat_template import find_chat_template  # jinja2 takes a while to import

        file = self.folder / TOKENIZER_CONFIG
        return find_chat_template(self.tokenizer(), read_json(file, "the chat template") if file.exists() else {})

    def model_config(self, config: Layer | None = None) -> ModelConfig:
        """The [model] section, which every run saves completely. config: of the run, where it is known already."""
        try:
            model = build_section("model", ModelConfig, (self.config() if config is None else config)["model"])
        except (KeyError, TypeError, UserError) as error:
            reason = f": {error}" if isinstance(error, UserError) else ""
            raise UserError(f"'{self.folder / CONFIG}' is damaged{reason}", "restore it from a copy") from error
        if model.vocab_size is None:
            raise UserError(f"'{self.folder / CONFIG}' is damaged", "restore it from a copy")
        return model

    def last_step(self, config: Layer | None = None) -> int:
        """As planned; where train.minutes decides it, as decided last. config: of the run, where it is known already.

        A run that is stopped early ends before it: see runs/status.py.
        """
        train = (self.config() if config is None else config).get("train", {})
        if not isinstance(steps := train.get("steps"), int):
            raise UserError(f"'{self.folder / CONFIG}' is damaged", "restore it from a copy")
        if train.get("minutes") is not None:
            decided = [event["steps"] for event in read_events(self.folder, Started, StepsPlanned)]
            steps = next((number for number in reversed(decided) if isinstance(number, int)), steps)
        return steps

    def changed_files(self) -> list[str]:
        """The files that differ from what the run was created with."""
        metadata = self.metadata()
        if not verify((self.folder / METADATA).read_bytes(), indent=1):
            return [METADATA]
        return [name for name in HASHED if _hash(self.folder / name) != metadata[HASHES].get(name)]

    def refuse_changed(self) -> None:
        """A changed learning rate or vocabulary would otherwise go unnoticed."""
        if changed := self.changed_files():
            files = ", ".join(f"'{self.folder / name}'" for name in changed)
            intended = f"; if the change is intended: fledge resume {self.reference} --allow-changes"
            raise UserError(
                f"damaged, or edited since the run was created: {files}",
                f"restore it from a copy{intended if changed == [CONFIG] else ''}",
            )

    def replace_config(self, config: str) -> None:
        """Change the settings of the run; the caller has shown the changes and had them confirmed."""
        write_atomic(self.folder / CONFIG, config)
        self.update_metadata({HASHES: self.metadata()[HASHES] | {CONFIG: sha256(self.folder / CONFIG)}})

    def update_metadata(self, changes: Mapping[str, Any]) -> None:
        metadata = {name: value for name, value in self.metadata().items() if name != CHECKSUM_KEY}
        write_atomic(self.folder / METADATA, with_checksum({**metadata, **changes}, indent=1))

    def checkpoint(self, *, weights_only: bool = False) -> store.Checkpoint:
        """The checkpoint that the reference named, verified. Damaged ones are skipped with a warning.

        weights_only: its weights are verified, and not what training needs to continue.
        """
        checkpoint, damaged = store.find_checkpoint(self.checkpoints, self.selector, weights_only=weights_only)
        for what in damaged:
            notice(f"warning: {what}; using step {checkpoint.step}")
        return checkpoint

    def load(self, device: str = "cpu", *, value_head: bool = False) -> LoadedCheckpoint:
        """A plain model: LoRA adapters are merged. value_head: keep the value head, for a reward model."""
        config = self.model_config()
        with ThreadPoolExecutor(1) as beside:  # hashing large files does not hold Python's lock
            verified = beside.submit(self.checkpoint, weights_only=True)
            model, tokenizer = build_for_loading(plain_config(config, value_head=value_head)), self.tokenizer()
            checkpoint = verified.result()
        weights = store.load_weights(checkpoint, verified=True)
        load_weights(model, plain_weights(config, weights, value_head=value_head))
        return LoadedCheckpoint(self, model.to(device).eval(), tokenizer, checkpoint)


def open_run(reference: str | None, runs: Path, *, default: str = "latest", verify: bool = True) -> RunFolder:
    """The run that a reference names; None: the latest run.

    `default`: the checkpoint meant where the reference names none. `verify`: refuse a run whose files were changed.
    """
    run = _latest_run(runs, default) if reference is None else find_run(reference, runs, default=default)
    if run is None:
        name, known = split_reference(reference or "")[0], [run.name for run in list_runs(runs)]
        hint = nearest(name, known) or (f"there are: {', '.join(known)}" if known else "train one first: fledge demo")
        raise UserError(f"no run '{name}' in '{runs}'", hint)
    if verify:
        run.refuse_changed()
    return run


def open_whole_run(reference: str | None, runs: Path) -> RunFolder:
    """A run for what shows all of it; a reference to one of its checkpoints is refused."""
    run = open_run(reference, runs, default="", verify=False)
    if run.selector:
        raise UserError(f"'{reference}' names a checkpoint", f"name the run: {run.reference}")
    return RunFolder(run.folder)


def find_run(reference: str, runs: Path, *, default: str = "latest") -> RunFolder | None:
    """`open_run` without its checks; None where there is no such run."""
    name, selector = split_reference(reference, default)
    folders = (runs / name, user_path(name or "."))
    return next((RunFolder(folder, selector) for folder in folders if (folder / CONFIG).exists()), None)


def _latest_run(runs: Path, selector: str) -> RunFolder:
    if not (known := list_runs(runs)):
        raise UserError(
            f"no runs in '{runs}'",
            "train one first: fledge demo, or fledge train TEXT; or name their folder: --runs DIR",
        )
    notice(f"using the latest run: {known[-1].name}")
    return RunFolder(known[-1].folder, selector)


def split_reference(reference: str, default: str = "latest") -> tuple[str, str]:
    """`NAME@SELECTOR` → both parts. A path may contain an @ too."""
    name, at, selector = reference.rpartition("@")
    return (name, selector) if at and "/" not in selector else (reference, default)


def list_runs(runs: Path) -> list[RunFolder]:
    """Oldest first."""
    configs = sorted(runs.glob(f"*/{CONFIG}"), key=lambda path: (path.stat().st_mtime, path))
    return [RunFolder(path.parent) for path in configs if not path.parent.name.startswith(".")]


def create_run(
    folder: Path,
    config: str,
    metadata: Mapping[str, Any],
    tokenizer: Tokenizer,
    start: State | None = None,
    chat: Mapping[str, str] | None = None,
) -> RunFolder:
    """Create a run folder atomically; `start` becomes its first checkpoint. chat: settings of a chat template."""
    refuse_existing(folder)
    with atomic_folder(folder) as inside:
        (inside / CONFIG).write_text(config, encoding="utf-8")
        save_tokenizer(tokenizer, inside / TOKENIZER)
        if chat:
            (inside / TOKENIZER_CONFIG).write_text(to_json(chat, indent=1), encoding="utf-8")
        hashes = {name: sha256(inside / name) for name in HASHED if (inside / name).exists()}
        (inside / METADATA).write_bytes(with_checksum({"format": FORMAT, **metadata, HASHES: hashes}, indent=1))
        (inside / CHECKPOINTS).mkdir()
        if start is not None:
            store.save(inside / CHECKPOINTS, start)
    return RunFolder(folder)


def refuse_existing(folder: Path) -> None:
    if folder.exists():
        raise UserError(
            f"a run named '{folder.name}' already exists in '{folder.parent}'",
            f"choose another --run NAME, or continue it: fledge resume {run_word(folder)}",
        )


def free_name(runs: Path, wanted: str) -> str:
    """`wanted`, or the first of `wanted-2`, `wanted-3`, … that does not exist."""
    name, number = wanted, 1
    while (runs / name).exists():
        number += 1
        name = f"{wanted}-{number}"
    return name


def _hash(path: Path) -> str | None:
    with contextlib.suppress(FileNotFoundError):
        return sha256(path)
    return None
