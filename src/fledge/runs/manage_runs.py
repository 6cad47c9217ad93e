"""Delete and rename runs; one that is being trained is refused.

A kill while deleting leaves all of a run, or nothing but a hidden folder that the next `fledge runs delete` removes.
A kill while renaming leaves the run under one of the two names; runs that started from it may still record the old one.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fledge.core.errors import UserError, nearest
from fledge.core.files import file_lock, folder_bytes, remove_path, sync_folder, user_path
from fledge.runs.names import JOURNAL, check_run_name
from fledge.runs.run_folder import CHECKPOINTS, LOCK, METADATA, RunFolder, find_run, list_runs, refuse_existing

DELETED = ".deleted-"  # prefix of a folder that is being removed


@dataclass(frozen=True)
class Removal:
    """A run, or a sweep with all its trials."""

    name: str
    folder: Path
    trials: int  # of a sweep
    bytes: int


def find_removals(names: Sequence[str], runs: Path) -> list[Removal]:
    """What these names would delete; refused if one of them is not a run or a sweep."""
    folders = dict.fromkeys(find_folder(name, runs) for name in names)
    return [Removal(each.name, each, len(list_runs(each)), folder_bytes(each)) for each in folders]


def delete_runs(removals: Sequence[Removal]) -> None:
    """Each folder gets a hidden name first, so that no half of a run is ever seen."""
    with contextlib.ExitStack() as locks:
        for removal in removals:
            locks.enter_context(locked(removal.folder))
        for removal in removals:
            hidden = removal.folder.with_name(f"{DELETED}{removal.name}")
            remove_path(hidden)
            removal.folder.rename(hidden)
            sync_folder(hidden.parent)
            remove_path(hidden)
    for parent in {removal.folder.parent for removal in removals}:
        for leftover in parent.glob(f"{DELETED}*"):  # of a process that was killed
            remove_path(leftover)


def rename_run(reference: str, name: str, runs: Path) -> RunFolder:
    """Rename a run or a sweep, and the runs beside it that started from its weights record the new name."""
    check_run_name(name)
    folder = find_folder(reference, runs)
    renamed = folder.with_name(name)
    refuse_existing(renamed)
    if (folder.parent / JOURNAL).exists():
        raise UserError(f"'{folder.name}' is a trial of the sweep '{folder.parent.name}'", "rename the sweep instead")
    with locked(folder):
        folder.rename(renamed)
        sync_folder(folder.parent)
    for run in list_runs(folder.parent):
        with contextlib.suppress(UserError):  # a damaged run, which 'fledge runs' reports
            origin, at, checkpoint = str(run.metadata().get("init")).rpartition("@")
            if at and origin == folder.name:
                run.update_metadata({"init": f"{name}@{checkpoint}"})
    return RunFolder(renamed)


def find_folder(reference: str, runs: Path) -> Path:
    run = find_run(reference, runs, default="")
    if run is not None and run.selector:
        raise UserError(f"'{reference}' names a checkpoint", f"name the run: {run.name}")
    candidates = [run.folder] if run else [runs / reference, user_path(reference)]
    for folder in candidates:
        is_run = (folder / METADATA).exists() and (folder / CHECKPOINTS).exists()
        if is_run or (folder / JOURNAL).exists():
            return folder.absolute()
    known = [run.name for run in list_runs(runs)]
    hint = nearest(reference, known) or "fledge runs lists the runs"
    raise UserError(f"no run '{reference}' in '{runs}'", hint)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    busy = UserError(f"'{folder.name}' is being trained", "stop it first: Ctrl-C in its terminal")
    with contextlib.ExitStack() as locks:
        for each in (folder, *(run.folder for run in list_runs(folder))):
            locks.enter_context(file_lock(each / LOCK, busy))
        yield
