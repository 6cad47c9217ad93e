"""Checkpoints on disk: complete and verified by hashes, or absent.

    checkpoints/step-00001000/model.safetensors       weights under canonical names
                              optimizer.safetensors   and a file for each component that has tensors
                              state.json              everything of a State that is not a tensor
                              manifest.json           SHA-256 of the others; written last

With sharded saving (sharded.py), the tensors are in as many files as there were ranks.

Everything is written into a temporary folder, fsynced and renamed. `latest` and `best` are found by looking at the
checkpoints themselves; there is no pointer file that could be wrong.
"""

import contextlib
import errno
import json
import math
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fledge.checkpoint import sharded
from fledge.checkpoint.state import MODEL, OPTIMIZER, State, Tensors
from fledge.core.checksums import checked_content, with_checksum
from fledge.core.errors import UserError
from fledge.core.files import PARTIAL, atomic_folder, describe_os_error, errors_with_path, remove_partials, sha256

MANIFEST = "manifest.json"
STATE = "state.json"
SUFFIX = ".safetensors"
WEIGHTS = MODEL + SUFFIX
FORMAT = 1  # of manifest.json
TENSOR_FIELDS = ("weights", "optimizer", "component_tensors")  # of a State
PREFIX = "step-"
UNREADABLE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO)  # missing, not a file, bad disk


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be used; the message names the file."""

    def __init__(self, message: str, hint: str = "use another checkpoint, or restore this one from a copy") -> None:
        super().__init__(message, hint)


@dataclass(frozen=True)
class Checkpoint:
    """What the manifest of a checkpoint says."""

    folder: Path
    step: int
    val_loss: float | None
    pending_hooks: bool  # a stop signal came before the evaluation and sample of its step
    healthy: bool  # its last step made an update


def save(folder: Path, state: State, write: Callable[[Path, State], None] | None = None) -> Checkpoint:
    """Write `state` as a new checkpoint below `folder`; an intact checkpoint of this step is returned unchanged.

    `write`: replaces the default writer of the tensors.
    """
    path = folder / _name(state.step)
    if path.exists():
        try:
            if not (existing := verify(path)).pending_hooks:
                return existing
            remove(path)  # saved before the hooks of its step had run
        except DamagedCheckpoint:
            remove(path)
    with atomic_folder(path) as inside:
        (write or _write_whole)(inside, state)
        values = {name: value for name, value in vars(state).items() if name not in TENSOR_FIELDS}
        (inside / STATE).write_text(json.dumps(values))
        hashes = {file.name: sha256(file) for file in sorted(inside.iterdir())}
        content = {"format": FORMAT, "step": state.step, "val_loss": state.val_loss, "files": hashes}
        content |= {"pending_hooks": state.pending_hooks is not None, "healthy": state.healthy}
        (inside / MANIFEST).write_bytes(with_checksum(content))
    return _from_manifest(path, content)


def _write_whole(folder: Path, state: State) -> None:
    for group, tensors in state.groups.items():
        _write_tensors(tensors, folder / f"{group}{SUFFIX}")


def _write_tensors(tensors: Tensors, path: Path) -> None:
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise describe_os_error(error, path) from None


def _read_manifest(path: Path) -> dict[str, Any]:
    """Also checks the name of the folder: under another name it would be taken for another step."""
    with contextlib.suppress(OSError, ValueError):
        manifest = checked_content((path / MANIFEST).read_bytes())
        if path.name == _name(manifest["step"]):
            return manifest
    raise DamagedCheckpoint(f"{path / MANIFEST} is damaged")


def verify(path: Path) -> Checkpoint:
    """Check that every file is present and unchanged, or raise `DamagedCheckpoint`."""
    manifest = _read_manifest(path)
    for name, expected in manifest["files"].items():
        if hash_of(path / name) != expected:
            raise DamagedCheckpoint(f"{path / name} is damaged")
    return _from_manifest(path, manifest)


def hash_of(path: Path) -> str:
    """SHA-256, or "" for a file that is missing or unreadable; a missing permission is an OSError, not damage."""
    try:
        return sha256(path)
    except OSError as error:
        if error.errno not in UNREADABLE:
            raise
        return ""


def describe(path: Path) -> Checkpoint:
    """Read the manifest alone, without verifying the files."""
    return _from_manifest(path, _read_manifest(path))


def _from_manifest(path: Path, manifest: dict[str, Any]) -> Checkpoint:
    return Checkpoint(path, manifest["step"], manifest["val_loss"], manifest["pending_hooks"], manifest["healthy"])


def load(checkpoint: Checkpoint, like: Mapping[str, Tensor] | None = None) -> State:
    """Read and verify a checkpoint.

    `like`: this rank's model weights; of a sharded checkpoint, a tensor is read as a shard where its weight is one.
    """
    path = checkpoint.folder
    verify(path)
    try:
        if (path / WEIGHTS).exists():
            groups = {file.stem: load_file(file) for file in sorted(path.glob(f"*{SUFFIX}"))}
        else:
            groups = sharded.read_shards(path, like or {})
    except SafetensorError as error:
        raise DamagedCheckpoint(f"{path}: {error}") from None
    weights, optimizer = groups.pop(MODEL), groups.pop(OPTIMIZER, {})
    return State(weights=weights, optimizer=optimizer, component_tensors=groups, **read_state_json(checkpoint))


def read_state_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """The fields of a State that hold no tensors."""
    return dict(json.loads((checkpoint.folder / STATE).read_bytes()))


def load_weights(checkpoint: Checkpoint) -> Tensors:
    """The weights alone."""
    verify(checkpoint.folder)
    whole = checkpoint.folder / WEIGHTS
    return load_file(whole) if whole.exists() else sharded.read_shards(checkpoint.folder, {}, only=[MODEL])[MODEL]


def complete_checkpoints(folder: Path) -> list[Checkpoint]:
    """Those with a readable manifest, oldest first. Reads nothing else: cheap enough for every save."""
    found = []
    for path in checkpoint_folders(folder):
        with contextlib.suppress(DamagedCheckpoint):
            found.append(describe(path))
    return found


def list_checkpoints(folder: Path) -> tuple[list[Checkpoint], list[str]]:
    """The verified checkpoints, oldest first, and what is wrong with the others."""
    good, bad = [], []
    for path in checkpoint_folders(folder):
        try:
            good.append(verify(path))
        except DamagedCheckpoint as error:
            bad.append(str(error))
    return good, bad


def find_checkpoint(folder: Path, selector: str = "latest") -> tuple[Checkpoint, list[str]]:
    """The checkpoint `selector` (latest, best or a step), and a description of each damaged one that was skipped.

    Only candidates are read completely; of the others only the manifest is read.
    """
    candidates = complete_checkpoints(folder)
    readable = {c.folder for c in candidates}
    bad = [f"{path / MANIFEST} is damaged" for path in checkpoint_folders(folder) if path not in readable]
    if selector == "best":
        candidates.sort(key=_quality_key)
    elif selector != "latest":
        candidates = [c for c in candidates if str(c.step) == selector]
    for candidate in reversed(candidates):
        try:
            return verify(candidate.folder), bad
        except DamagedCheckpoint as error:
            bad.append(str(error))
    steps = ", ".join(str(c.step) for c in list_checkpoints(folder)[0])
    damage = f" ({'; '.join(sorted(bad))})" if bad else ""
    known = f"latest, best, or one of these steps: {steps}" if steps else "restore one from a copy, or train again"
    raise UserError(f"no checkpoint '{selector}' in '{folder}'{damage}", known)


def _name(step: int) -> str:
    return f"{PREFIX}{step:08d}"


def checkpoint_folders(folder: Path) -> list[Path]:
    """Oldest first. Folders with other names are ignored."""
    named = ((path, re.fullmatch(rf"{PREFIX}([0-9]{{8,}})", path.name)) for path in folder.glob(f"{PREFIX}*"))
    return [path for _, path in sorted((int(name[1]), path) for path, name in named if name)]


def best_of(checkpoints: list[Checkpoint]) -> Checkpoint | None:
    best = max(checkpoints, key=_quality_key, default=None)
    return best if best and best.val_loss is not None and not math.isnan(best.val_loss) else None


def _quality_key(checkpoint: Checkpoint) -> tuple[float, int]:
    """Sorts the lowest validation loss last, unevaluated ones first; on a tie the earlier step wins."""
    loss = checkpoint.val_loss
    if loss is None or math.isnan(loss):
        return (-math.inf, checkpoint.step)
    return (-loss, -checkpoint.step)


def best_checkpoint(folder: Path) -> Checkpoint | None:
    """The verified one with the lowest validation loss. Only candidates are read completely."""
    candidates = complete_checkpoints(folder)
    while found := best_of(candidates):
        try:
            return verify(found.folder)
        except DamagedCheckpoint:
            candidates.remove(found)
    return None


def prune(folder: Path, keep_last: int) -> None:
    """Keep the newest few, the newest healthy one (for a rollback) and the best; remove the others.

    Also removes leftovers of interrupted saves.
    """
    remove_partials(folder)
    good = complete_checkpoints(folder)
    keep = {*good[-max(1, keep_last) :], *[each for each in good if each.healthy][-1:]}
    if keep != set(good) and (found := best_checkpoint(folder)):
        keep.add(found)
    for checkpoint in good:
        if checkpoint not in keep:
            remove(checkpoint.folder)


def remove(folder: Path) -> None:
    """Renames it first: a half-removed checkpoint must not be taken for a complete or a damaged one."""
    trash = folder.with_name(f"{PARTIAL}{folder.name}")
    folder.rename(trash)
    with errors_with_path(trash):
        if trash.is_dir() and not trash.is_symlink():
            shutil.rmtree(trash)
        else:
            trash.unlink()  # a symbolic link or a file


def remove_after(folder: Path, step: int) -> None:
    """Remove all checkpoints after `step`, damaged or not: the run will write them again."""
    for path in checkpoint_folders(folder):
        if int(path.name.removeprefix(PREFIX)) > step:
            remove(path)
