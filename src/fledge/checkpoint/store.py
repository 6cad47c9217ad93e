"""Checkpoints on disk: complete and verified by hashes, or absent.

    checkpoints/step-00001000/model.safetensors       weights under canonical names
                              optimizer.safetensors   and a file for each component that has tensors
                              state.json              everything of a State that is not a tensor
                              manifest.json           SHA-256 of the others; written last

With sharded saving (sharded.py), each rank has files of its own. A checkpoint for looking back holds the weights only
(thinning.py).

Everything is written into a temporary folder, fsynced and renamed; only then is an older one of the same step removed.
`latest` and `best` are found by looking at the checkpoints themselves; there is no pointer file that could be wrong.
"""

import contextlib
import errno
import json
import math
import re
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
from fledge.core.files import PARTIAL, atomic_folder, describe_os_error, errors_with_path, remove_path, sha256

MANIFEST = "manifest.json"
STATE = "state.json"
SUFFIX = ".safetensors"
WEIGHTS = MODEL + SUFFIX
FORMAT = 1  # of manifest.json
NOT_IN_STATE_JSON = ("weights", "optimizer", "component_tensors", "weights_only")  # fields of a State
PREFIX = "step-"
MANIFEST_FIELDS = ("step", "val_loss", "pending_hooks", "healthy", "scheduled", "weights_only")  # of a Checkpoint
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
    scheduled: bool = True  # saved at a fixed step, so that a rollback may go to it
    weights_only: bool = False


def save(folder: Path, state: State, write: Callable[[Path, State], None] | None = None) -> Checkpoint:
    """Write `state` as a new checkpoint below `folder`; an intact one of this step that has no less stays unchanged.

    `write`: replaces the default writer of the tensors.
    """
    path = folder / _name(state.step)
    with contextlib.suppress(DamagedCheckpoint):
        if path.exists() and _is_enough(existing := verify(path), state):
            return existing
    with atomic_folder(path, replace=True) as inside:
        (write or _write_whole)(inside, state)
        values = {name: value for name, value in vars(state).items() if name not in NOT_IN_STATE_JSON}
        (inside / STATE).write_text(json.dumps(values))
        hashes = {file.name: sha256(file) for file in sorted(inside.iterdir())}
        content = {"format": FORMAT, "step": state.step, "val_loss": state.val_loss, "files": hashes}
        content |= {"pending_hooks": state.pending_hooks is not None, "healthy": state.healthy}
        content |= {"scheduled": state.scheduled, "weights_only": state.weights_only}
        (inside / MANIFEST).write_bytes(with_checksum(content))
    return _from_manifest(path, content)


def _is_enough(existing: Checkpoint, state: State) -> bool:
    """Whether a checkpoint of the same step makes saving `state` superfluous."""
    if existing.pending_hooks:
        return False  # saved before the hooks of its step had run
    return state.weights_only or (not existing.weights_only and existing.scheduled >= state.scheduled)


def _write_whole(folder: Path, state: State) -> None:
    for group, tensors in state.groups.items():
        _write_tensors(tensors, folder / f"{group}{SUFFIX}")


def _write_tensors(tensors: Tensors, path: Path) -> None:
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise describe_os_error(error, path) from None


def read_manifest(path: Path) -> dict[str, Any]:
    """Also checks the name of the folder: under another name it would be taken for another step."""
    with contextlib.suppress(OSError, ValueError):
        manifest = checked_content((path / MANIFEST).read_bytes())
        if manifest.keys() >= {*MANIFEST_FIELDS} and path.name == _name(manifest["step"]):
            return manifest
    raise DamagedCheckpoint(f"{path / MANIFEST} is damaged")


def verify(path: Path, *, weights_only: bool = False) -> Checkpoint:
    """Check that every file is present and unchanged, or raise `DamagedCheckpoint`.

    weights_only: only the files that are read for the weights; the optimizer's are often twice as large.
    """
    manifest = read_manifest(path)
    for name, expected in manifest["files"].items():
        if weights_only and not belongs_to_weights(name):
            continue
        if hash_of(path / name) != expected:
            if read_manifest(path) != manifest:  # meanwhile stripped to its weights
                return verify(path, weights_only=weights_only)
            raise DamagedCheckpoint(f"{path / name} is damaged")
    return _from_manifest(path, manifest)


def belongs_to_weights(name: str) -> bool:
    """Whether a file of a checkpoint is needed where only the weights are."""
    return name in (STATE, WEIGHTS) or sharded.is_weight_shard(name)


def hash_of(path: Path) -> str:
    """SHA-256, or "" for a file that is missing or unreadable; a missing permission is an OSError, not damage."""
    try:
        return sha256(path)
    except OSError as error:
        if error.errno not in UNREADABLE:
            raise
        return ""


def checkpoint_at(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of a step below `folder`, not verified."""
    return describe(folder / _name(step))


def describe(path: Path) -> Checkpoint:
    """Read the manifest alone, without verifying the files."""
    return _from_manifest(path, read_manifest(path))


def _from_manifest(path: Path, manifest: dict[str, Any]) -> Checkpoint:
    return Checkpoint(path, **{name: manifest[name] for name in MANIFEST_FIELDS})


def load(checkpoint: Checkpoint, like: Mapping[str, Tensor] | None = None) -> State:
    """Read and verify a checkpoint.

    `like`: this rank's model weights; of a sharded checkpoint, a tensor is read as a shard where its weight is one.
    """
    path = checkpoint.folder
    verify(path)
    try:
        if (path / WEIGHTS).exists():
            files = [path / name for name in read_manifest(path)["files"] if name.endswith(SUFFIX)]
            groups = {file.stem: load_file(file) for file in files}
        else:
            groups = sharded.read_shards(path, like or {}, only=[MODEL] if checkpoint.weights_only else None)
    except SafetensorError as error:
        raise DamagedCheckpoint(f"{path}: {error}") from None
    weights, optimizer = groups.pop(MODEL), groups.pop(OPTIMIZER, {})
    fields = read_state_json(checkpoint) | {"weights_only": checkpoint.weights_only}
    return State(weights=weights, optimizer=optimizer, component_tensors=groups, **fields)


def read_state_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """The fields of a State that hold no tensors."""
    return dict(json.loads((checkpoint.folder / STATE).read_bytes()))


def load_weights(
    checkpoint: Checkpoint, like: Mapping[str, Tensor] | None = None, *, verified: bool = False
) -> Tensors:
    """The weights alone. `like`: as for `load`. verified: just now, so that they need not be hashed again."""
    if not verified:
        verify(checkpoint.folder, weights_only=True)
    whole = checkpoint.folder / WEIGHTS
    return (
        load_file(whole) if whole.exists() else sharded.read_shards(checkpoint.folder, like or {}, only=[MODEL])[MODEL]
    )


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


def find_checkpoint(
    folder: Path, selector: str = "latest", *, weights_only: bool = False
) -> tuple[Checkpoint, list[str]]:
    """The checkpoint `selector` (latest, best or a step), and a description of each damaged one that was skipped.

    The latest is the latest that training can continue from. Only candidates are read completely; of the others only
    the manifest is read. weights_only: as for `verify`.
    """
    complete = complete_checkpoints(folder)
    readable = {c.folder for c in complete}
    bad = [f"{path / MANIFEST} is damaged" for path in checkpoint_folders(folder) if path not in readable]
    for candidate in reversed(matching(complete, selector)):
        try:
            return verify(candidate.folder, weights_only=weights_only), bad
        except DamagedCheckpoint as error:
            bad.append(str(error))
    steps = ", ".join(str(c.step) for c in list_checkpoints(folder)[0])
    damage = f" ({'; '.join(sorted(bad))})" if bad else ""
    known = f"latest, best, or one of these steps: {steps}" if steps else "restore one from a copy, or train again"
    raise UserError(f"no checkpoint '{selector}' in '{folder}'{damage}", known)


def matching(checkpoints: list[Checkpoint], selector: str) -> list[Checkpoint]:
    """Those that `selector` (latest, best or a step) may mean, the first choice last; not verified."""
    if selector == "best":
        return sorted(checkpoints, key=_quality_key)
    if selector == "latest":
        return [each for each in checkpoints if not each.weights_only]
    return [each for each in checkpoints if str(each.step) == selector]


def is_unsaved(folder: Path) -> bool:
    """Whether there is no checkpoint to continue from, not even a damaged one."""
    found = complete_checkpoints(folder)
    return all(each.weights_only for each in found) and len(found) == len(checkpoint_folders(folder))


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
    """Sorts the lowest validation loss last, unevaluated ones first; on a tie the later step wins."""
    loss = checkpoint.val_loss
    if loss is None or math.isnan(loss):
        return (-math.inf, checkpoint.step)
    return (-loss, checkpoint.step)


def rollback_target_of(checkpoints: list[Checkpoint]) -> Checkpoint | None:
    """The newest healthy one of a fixed step, else the newest of a fixed step.

    A checkpoint saved after skipped updates may have bad weights.
    """
    fixed = [each for each in checkpoints if each.scheduled and not each.weights_only]
    healthy = [each for each in fixed if each.healthy]
    return next(reversed(healthy or fixed), None)


def find_intact(folder: Path, choose: Callable[[list[Checkpoint]], Checkpoint | None]) -> Checkpoint | None:
    """The first choice that is verified. Only candidates are read completely."""
    candidates = complete_checkpoints(folder)
    while found := choose(candidates):
        try:
            return verify(found.folder)
        except DamagedCheckpoint:
            candidates.remove(found)
    return None


def best_checkpoint(folder: Path) -> Checkpoint | None:
    """The verified one with the lowest validation loss."""
    return find_intact(folder, best_of)


def remove(folder: Path) -> None:
    """Renames it first: a half-removed checkpoint must not be taken for a complete or a damaged one."""
    trash = folder.with_name(f"{PARTIAL}{folder.name}")
    folder.rename(trash)
    with errors_with_path(trash):
        remove_path(trash)


def remove_after(folder: Path, step: int) -> None:
    """Remove all checkpoints after `step`, damaged or not: the run will write them again."""
    for path in checkpoint_folders(folder):
        if int(path.name.removeprefix(PREFIX)) > step:
            remove(path)
