"""Checkpoints on disk: whole, hashed, or not there at all.

    checkpoints/step-00001000/model.safetensors       weights under canonical names
                              optimizer.safetensors
                              state.json              step, validation loss, random generators
                              manifest.json           SHA-256 of the others; written last

Where each of many processes writes its own part (parts.py), the first two are as many files as there are parts.

Everything is written into a temporary folder, flushed to the disk and renamed: a folder with the final name is
complete. What is `latest` and what is `best` is read off the checkpoints themselves, never off a pointer.
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
from fledge.checkpoint.state import State, Tensors
from fledge.core.checksums import checked_content, with_checksum
from fledge.core.errors import UserError
from fledge.core.files import PARTIAL, atomic_folder, describe_os_error, naming_errors, remove_partials, sha256

MANIFEST = "manifest.json"
WEIGHTS, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
PREFIX = "step-"
UNREADABLE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO)  # gone, no file, or a bad disk


class DamagedCheckpoint(UserError):
    """A checkpoint that must not be used; the message names the file."""

    def __init__(self, message: str, hint: str = "take another checkpoint, or restore this one from a copy") -> None:
        super().__init__(message, hint)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that says of itself that it is complete."""

    folder: Path
    step: int
    val_loss: float | None
    pending_hooks: bool = False  # its step has not been looked at
    healthy: bool = True  # the step before it went well


def save(folder: Path, state: State, write: Callable[[Path, State], None] | None = None) -> Checkpoint:
    """Write `state` as a new checkpoint below `folder`. An old one of the same step is the same, and stays.

    `write` puts its tensors into files in some other way.
    """
    path = folder / _name(state.step)
    if path.exists():
        try:
            if not (there := verify(path)).pending_hooks:
                return there
            remove(path)  # it was saved in haste, before its step had been looked at
        except DamagedCheckpoint:
            remove(path)
    with atomic_folder(path) as inside:
        (write or _write_whole)(inside, state)
        progress = {name: value for name, value in vars(state).items() if name not in ("weights", "optimizer")}
        (inside / "state.json").write_text(json.dumps(progress))
        hashes = {file.name: sha256(file) for file in sorted(inside.iterdir())}
        content = {"format": 1, "step": state.step, "val_loss": state.val_loss, "files": hashes}
        content |= {"pending_hooks": state.pending_hooks is not None, "healthy": not (state.guard or {}).get("skipped")}
        (inside / MANIFEST).write_bytes(with_checksum(content))
    return _described(path, content)


def _write_whole(folder: Path, state: State) -> None:
    _write_tensors(state.weights, folder / WEIGHTS)
    _write_tensors(state.optimizer, folder / OPTIMIZER)


def _write_tensors(tensors: Tensors, path: Path) -> None:
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise describe_os_error(error, path) from None


def _read_manifest(path: Path) -> dict[str, Any]:
    """Of the folder that it was made for: a copy under another name would be taken for another step."""
    with contextlib.suppress(OSError, ValueError):
        manifest = checked_content((path / MANIFEST).read_bytes())
        if path.name == _name(manifest["step"]):
            return manifest
    raise DamagedCheckpoint(f"{path / MANIFEST} is damaged")


def verify(path: Path) -> Checkpoint:
    """Every file present and unchanged, or `Damaged`."""
    manifest = _read_manifest(path)
    for name, expected in manifest["files"].items():
        if hash_of(path / name) != expected:
            raise DamagedCheckpoint(f"{path / name} is damaged")
    return _described(path, manifest)


def hash_of(path: Path) -> str:
    """Empty where nothing can be read; what somebody else may read is not damaged."""
    try:
        return sha256(path)
    except OSError as error:
        if error.errno not in UNREADABLE:
            raise
        return ""


def describe(path: Path) -> Checkpoint:
    """What it says of itself; whether that is true, verify and load find out."""
    return _described(path, _read_manifest(path))


def _described(path: Path, manifest: dict[str, Any]) -> Checkpoint:
    return Checkpoint(
        path, manifest["step"], manifest["val_loss"], manifest["pending_hooks"], manifest.get("healthy", True)
    )


def load(checkpoint: Checkpoint, like: Mapping[str, Tensor] | None = None) -> State:
    """Of weights that are spread over ranks in `like`, a checkpoint in parts gives each rank no more than its own."""
    path = checkpoint.folder
    verify(path)
    try:
        if (path / WEIGHTS).exists():
            weights, optimizer = load_file(path / WEIGHTS), load_file(path / OPTIMIZER)
        else:
            weights, optimizer = (sharded.read(path, kind, like or {}) for kind in (sharded.MODEL, sharded.MEMORY))
    except SafetensorError as error:
        raise DamagedCheckpoint(f"{path}: {error}") from None
    return State(weights=weights, optimizer=optimizer, **read_progress(checkpoint))


def read_progress(checkpoint: Checkpoint) -> dict[str, Any]:
    """Everything of a state that is no tensor."""
    return dict(json.loads((checkpoint.folder / "state.json").read_bytes()))


def load_weights(checkpoint: Checkpoint) -> Tensors:
    """The weights alone, for those who do not train."""
    verify(checkpoint.folder)
    whole = checkpoint.folder / WEIGHTS
    return load_file(whole) if whole.exists() else sharded.read(checkpoint.folder, sharded.MODEL, {})


def complete_checkpoints(folder: Path) -> list[Checkpoint]:
    """Those that have a manifest, oldest first, without reading the rest: cheap enough for every save."""
    found = []
    for path in checkpoint_folders(folder):
        with contextlib.suppress(DamagedCheckpoint):
            found.append(describe(path))
    return found


def list_checkpoints(folder: Path) -> tuple[list[Checkpoint], list[str]]:
    """The checkpoints that are complete and unchanged, oldest first, and what is wrong with the others."""
    good, bad = [], []
    for path in checkpoint_folders(folder):
        try:
            good.append(verify(path))
        except DamagedCheckpoint as error:
            bad.append(str(error))
    return good, bad


def find_checkpoint(folder: Path, which: str = "latest") -> tuple[Checkpoint, list[str]]:
    """`latest`, `best` or a step; and, to be said aloud, which damaged ones were passed over.

    Only what may be the answer is read whole: the others cost a look at their manifest.
    """
    candidates = complete_checkpoints(folder)
    whole = {c.folder for c in candidates}
    bad = [f"{path / MANIFEST} is damaged" for path in checkpoint_folders(folder) if path not in whole]
    if which == "best":
        candidates.sort(key=_rank_key)
    elif which != "latest":
        candidates = [c for c in candidates if str(c.step) == which]
    for candidate in reversed(candidates):
        try:
            return verify(candidate.folder), bad
        except DamagedCheckpoint as error:
            bad.append(str(error))
    have = ", ".join(str(c.step) for c in list_checkpoints(folder)[0])
    damage = f" ({'; '.join(sorted(bad))})" if bad else ""
    known = f"latest, best, or one of these steps: {have}" if have else "restore one from a copy, or train anew"
    raise UserError(f"no checkpoint '{which}' in '{folder}'{damage}", known)


def _name(step: int) -> str:
    return f"{PREFIX}{step:08d}"


def checkpoint_folders(folder: Path) -> list[Path]:
    """Oldest first; what somebody has put beside them under a name of his own is no checkpoint."""
    named = ((path, re.fullmatch(rf"{PREFIX}([0-9]{{8,}})", path.name)) for path in folder.glob(f"{PREFIX}*"))
    return [path for _, path in sorted((int(name[1]), path) for path, name in named if name)]


def best_of(checkpoints: list[Checkpoint]) -> Checkpoint | None:
    best = max(checkpoints, key=_rank_key, default=None)
    return best if best and best.val_loss is not None and not math.isnan(best.val_loss) else None


def _rank_key(checkpoint: Checkpoint) -> tuple[float, int]:
    """A low validation loss, and of equals the earlier; one that was never judged comes last."""
    loss = checkpoint.val_loss
    judged = loss is not None and not math.isnan(loss)
    return (-loss, -checkpoint.step) if judged and loss is not None else (-math.inf, checkpoint.step)


def best_checkpoint(folder: Path) -> Checkpoint | None:
    """Of those that are whole. Only what may be the answer is read."""
    candidates = complete_checkpoints(folder)
    while found := best_of(candidates):
        try:
            return verify(found.folder)
        except DamagedCheckpoint:
            candidates.remove(found)
    return None


def prune(folder: Path, keep_last: int) -> None:
    """Keep the newest few, the newest that a rescue would go back to, and the best; take away the rest.

    Also what a killed save left.
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
    """First its name: half a removed checkpoint must not be taken for a whole or for a damaged one."""
    doomed = folder.with_name(f"{PARTIAL}{folder.name}")
    folder.rename(doomed)
    with naming_errors(doomed):
        if doomed.is_dir() and not doomed.is_symlink():
            shutil.rmtree(doomed)
        else:
            doomed.unlink()  # a link, or a file that somebody has put in its place


def remove_later(folder: Path, step: int) -> None:
    """Whatever stands after `step`, damaged or not: a run that goes on from there will write it again."""
    for path in checkpoint_folders(folder):
        if int(path.name.removeprefix(PREFIX)) > step:
            remove(path)
