"""The training data of runs that the studio has open, and the indexes that it is building.

Opening a dataset verifies every shard, so what was opened last is kept. A build goes on in a thread of its own, while
the page asks how far it is.
"""

import contextlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from fledge.checkpoint import store
from fledge.core.errors import UserError, to_user_error
from fledge.datasets.shards import Dataset, Split
from fledge.insight.build_suffix_array import ensure_suffix_array
from fledge.insight.provenance import Provenance
from fledge.insight.suffix_array import POSITION, DamagedIndex, Ints, SuffixArray, document_starts, open_suffix_array
from fledge.runs.run_folder import METADATA, RunFolder

K = TypeVar("K")
V = TypeVar("V")
KEPT = 4


@dataclass(frozen=True)
class IndexState:
    """Whether the training text of a run can be searched by its index. `share`: of a build that goes on."""

    state: Literal["missing", "building", "ready", "failed"]
    share: float
    tokens: int
    bytes: int  # that the index takes on disk
    problem: str  # of a build that failed, in words


@dataclass
class _Build:
    share: float = 0.0
    problem: str = ""
    thread: threading.Thread | None = None


@dataclass
class TrainingData:
    _datasets: "OrderedDict[tuple[object, ...], Dataset]" = field(default_factory=OrderedDict)
    _opened: "OrderedDict[tuple[object, ...], Provenance]" = field(default_factory=OrderedDict)
    _arrays: "OrderedDict[str, SuffixArray]" = field(default_factory=OrderedDict)
    _starts: "OrderedDict[tuple[str, str], Ints]" = field(default_factory=OrderedDict)
    _builds: dict[str, _Build] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self, run: RunFolder) -> Provenance:
        """The run's training data; opened again when the run has changed: a new checkpoint, another dataset."""
        of_run = (run.folder, (run.folder / METADATA).stat().st_mtime_ns)
        key = (*of_run, run.selector, *_newest_checkpoint(run))
        with self._lock:
            if key not in self._opened:
                opened = Provenance(run, self._datasets.get(of_run))
                _keep(self._datasets, of_run, opened.dataset)
                _keep(self._opened, key, opened)
            return self._opened[key]

    def starts(self, dataset: Dataset, split: Split) -> Ints:
        """The first token of each document of a split."""
        key = (dataset.fingerprint, split.name)
        with self._lock:
            if key not in self._starts:
                _keep(self._starts, key, document_starts(dataset, split))
            return self._starts[key]

    def array(self, dataset: Dataset) -> SuffixArray | None:
        """The index; None where it is not built yet."""
        with self._lock:
            if dataset.fingerprint not in self._arrays:
                try:
                    array = open_suffix_array(dataset)
                except DamagedIndex:  # it is built again when it is asked for
                    array = None
                if array is None:
                    return None
                _keep(self._arrays, dataset.fingerprint, array)
            return self._arrays[dataset.fingerprint]

    def index_state(self, dataset: Dataset) -> IndexState:
        tokens = len(dataset.split("train"))
        build = self._builds.get(dataset.fingerprint)
        state: Literal["missing", "building", "ready", "failed"] = "missing"
        if build and build.thread and build.thread.is_alive():
            state = "building"
        elif build and build.problem:
            state = "failed"
        elif self.array(dataset) is not None:
            state = "ready"
        share, problem = (build.share, build.problem) if build else (0.0, "")
        return IndexState(state, share, tokens, POSITION.itemsize * tokens, problem)

    def build(self, dataset: Dataset) -> None:
        """Begin to build the index in a thread, unless that has begun already."""
        with self._lock:
            before = self._builds.get(dataset.fingerprint)
            if before and before.thread and before.thread.is_alive():
                return
            build = self._builds[dataset.fingerprint] = _Build()
            build.thread = threading.Thread(target=_run_build, args=(dataset, build), daemon=True)
            build.thread.start()


def _run_build(dataset: Dataset, build: _Build) -> None:
    def report(share: float) -> None:
        build.share = share

    try:
        ensure_suffix_array(dataset, report)
    except (UserError, OSError, MemoryError) as error:
        known = error if isinstance(error, UserError) else to_user_error(error)
        build.problem = f"{known.message}; {known.hint}"


def _keep(kept: "OrderedDict[K, V]", key: K, value: V) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > KEPT:
        kept.popitem(last=False)


def _newest_checkpoint(run: RunFolder) -> tuple[object, ...]:
    """Its name and time: after a rollback, one of the same name has learned from other batches."""
    with contextlib.suppress(OSError):  # removed in this moment
        return tuple(
            (folder.name, folder.stat().st_mtime_ns) for folder in store.checkpoint_folders(run.checkpoints)[-1:]
        )
    return ()
