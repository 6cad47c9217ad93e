"""The list of runs: a summary of each, kept until one of its files changes; also of what cannot be read, and why."""

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fledge.core.errors import UserError, nearest
from fledge.core.files import is_file_locked
from fledge.runs.names import JOURNAL
from fledge.runs.run_folder import CHECKPOINTS, CONFIG, LOCK, METADATA, RunFolder, split_reference
from fledge.runs.summary import RunSummary, summarize_run
from fledge.studio.metrics import MetricsCache
from fledge.tracking.metrics_table import Table
from fledge.tracking.sinks.csv import METRICS, STEP, MetricsTable
from fledge.tracking.sinks.jsonl import EVENTS

FILES = (CONFIG, METADATA, METRICS, EVENTS, CHECKPOINTS)  # a folder with one of these is meant to be a run
NEEDED = (CONFIG, METADATA, CHECKPOINTS)
SPARKLINE_POINTS = 40
MAX_NAME = 255  # bytes of a file's name, in every usual file system
DAMAGE = (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError)  # what damaged files can raise
SUMMARIZED = ("val", "val_best", "val_whole")  # the groups of metrics that a summary reads

Signature = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class ListedRun:
    run: str
    changed: float  # when something was last written, in seconds since 1970
    problem: str | None  # why it cannot be read
    summary: RunSummary | None
    curve: list[float]  # of the loss, a few points


@dataclass(frozen=True)
class RunList:
    """One page of the list."""

    total: int  # runs that are found
    runs: list[ListedRun]


@dataclass
class Listing:
    """The runs below a folder. Each is read when it is first asked for, and again when one of its files has changed."""

    folder: Path
    metrics: MetricsCache
    _known: dict[Path, tuple[Signature, ListedRun]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def page(self, find: str, first: int, count: int) -> RunList:
        """The runs whose name contains `find`; what was written last comes first."""
        found = [each for each in run_folders(self.folder) if find.lower() in each[0].lower()]
        found.sort(key=lambda each: (each[2], each[0]), reverse=True)
        return RunList(len(found), [self.entry(path) for _, path, _ in found[first : first + count]])

    def summaries(self) -> list[RunSummary]:
        """Of all runs that can be read, oldest first."""
        entries = (self.entry(path) for _, path, _ in run_folders(self.folder))
        return sorted((each.summary for each in entries if each.summary), key=lambda summary: summary.started)

    def find(self, name: str) -> Path:
        """The folder of a run, which may be damaged."""
        path = self.path(split_reference(name)[0])
        if path is not None and last_change(path):
            return path
        known = [known for known, _, _ in run_folders(self.folder)]
        hint = nearest(name, known) or "it was deleted or renamed; the page Runs lists all runs"
        raise UserError(f"no run '{name}' in '{self.folder}'", hint)

    def renamed(self, path: Path) -> str | None:
        """The name that a run has now, which was read under another and is not there any more."""
        known = self._known.get(path)
        same = (
            name for name, folder, _ in run_folders(self.folder) if known and signature_of(folder)[:2] == known[0][:2]
        )
        return next(same, None)

    def name_of(self, path: Path) -> str:
        """The one name of the run in a folder; requests may name it as `demo@best` or by its path, too."""
        return path.relative_to(self.folder).as_posix()

    def path(self, name: str) -> Path | None:
        """Where a run of this name, or a trial of a sweep, lies; None: the name leads elsewhere."""
        path = self.folder / name
        parts = path.relative_to(self.folder).parts if path.is_relative_to(self.folder) else ()
        return path if 1 <= len(parts) <= 2 and all(map(is_folder_name, parts)) else None

    def entry(self, path: Path) -> ListedRun:
        signature = signature_of(path)
        known = self._known.get(path)
        if known is None or known[0] != signature:
            known = (signature, describe(self.name_of(path), path, self.metrics))
            if path.exists():  # else `renamed` needs what it was
                with self._lock:
                    self._known[path] = known
        return known[1]


def run_folders(runs: Path) -> Iterator[tuple[str, Path, float]]:
    """(name, folder, when its files were last written) of all that looks like a run, and of the trials of sweeps."""
    for folder in subfolders(runs):
        if (folder / JOURNAL).exists():
            yield from ((f"{folder.name}/{trial.name}", trial, last_change(trial)) for trial in subfolders(folder))
        elif changed := last_change(folder):
            yield folder.name, folder, changed


def subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:
        return []


def is_folder_name(part: str) -> bool:
    """Whether it can be the name of a run's folder: no hidden one, no way up, nothing that a file system refuses."""
    encoded = part.encode(errors="replace")
    return not part.startswith(".") and b"\0" not in encoded and len(encoded) <= MAX_NAME


def last_change(folder: Path) -> float:
    """0: it has no file of a run."""
    return max((stat[2] for stat in signature_of(folder)[:-1]), default=0) / 1e9


def signature_of(folder: Path) -> Signature:
    """Differs when something of a run has changed, or whether it is being trained."""
    stats = []
    for name in FILES:
        try:
            stat = (folder / name).stat()
            stats.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
        except OSError:
            stats.append((0, 0, 0))
    return (*stats, (int(is_file_locked(folder / LOCK)), 0, 0))


def describe(name: str, folder: Path, metrics: MetricsCache) -> ListedRun:
    """Read the files of a run, or say what is wrong with them."""
    changed = last_change(folder)
    try:
        table = metrics.table(folder)
        if missing := [file for file in NEEDED if not (folder / file).exists()]:
            raise UserError(f"incomplete: {', '.join(missing)} missing", "restore the folder from a copy, or delete it")
        summary = summarize_run(RunFolder(folder), name, summary_metrics(table))
        return ListedRun(name, changed, None, summary, sparkline(table))
    except UserError as error:
        return ListedRun(name, changed, f"{error.message}; {error.hint}", None, [])
    except DAMAGE as error:
        problem = f"damaged: {type(error).__name__}: {error}; restore the folder from a copy, or delete it"
        return ListedRun(name, changed, problem, None, [])


def summary_metrics(table: Table, *also: str) -> MetricsTable:
    """The columns that a summary reads, as lists, and these; of the rows with an evaluation, and the last."""
    names = [name for name in table.columns if name.partition("/")[0] in SUMMARIZED]
    rows = np.zeros(len(table.columns[STEP]), dtype=np.bool_)
    rows[-1:] = True
    for name in (*names, *also):
        rows |= table.measured.get(name, False)
    kept = [STEP, *names, *(name for name in also if name in table.columns)]
    return MetricsTable({name: table.columns[name][rows].tolist() for name in kept})


def sparkline(table: Table) -> list[float]:
    """The validation loss, else the training loss."""
    for name in ("val/loss", "train/loss"):
        values = table.columns.get(name, np.empty(0))
        values = values[np.isfinite(values)]
        if len(values) > 1:
            step = -(-len(values) // SPARKLINE_POINTS)
            return [float(f"{value:.5g}") for value in values[::step]]
    return []
