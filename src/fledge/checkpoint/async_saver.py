"""Saves checkpoints in a thread: they are written while training continues, from a snapshot.

One at a time, in order. An error in the thread is raised by the next call.
"""

import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fledge.checkpoint import sharded, store, thinning
from fledge.checkpoint.state import State, snapshot, state_bytes
from fledge.core.device import free_memory
from fledge.core.distributed import World
from fledge.core.files import sync_file


@dataclass(frozen=True)
class SavedCheckpoint:
    step: int
    val_loss: float | None
    seconds: float  # until it was on disk
    blocked_seconds: float  # for how long training was blocked
    scheduled: bool
    weights_only: bool


class AsyncSaver:
    """Saves one checkpoint at a time, in a thread, and prunes those before it.

    `history`: the steps whose weights are kept. `records`: run files that must be fsynced before the checkpoint.
    """

    def __init__(
        self, folder: Path, keep_last: int, records: Sequence[Path] = (), history: Collection[int] = ()
    ) -> None:
        self.folder, self.keep_last, self.history, self.records = folder, keep_last, history, records
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._pending: Future[SavedCheckpoint] | None = None

    @property
    def idle(self) -> bool:
        return self._pending is None or self._pending.done()

    def save(self, state: State) -> list[SavedCheckpoint]:
        """Start saving. Returns what is finished: the previous one; also this one if there is no memory for a copy."""
        begun = time.perf_counter()
        done = self.finished(wait=True)
        if copied := free_memory("cpu") > 2 * state_bytes(state):
            state = snapshot(state)
        self._pending = self._thread.submit(self._write, state, time.perf_counter() - begun, copied)
        return done if copied else done + self.finished(wait=True)

    def finished(self, *, wait: bool = False) -> list[SavedCheckpoint]:
        """What has been saved since the last call."""
        pending = self._pending
        if pending is None or not (wait or pending.done()):
            return []
        self._pending = None
        return [pending.result()]

    def save_sharded(self, state: State, world: World) -> list[SavedCheckpoint]:
        """A collective that blocks training: the main process creates the folder, every rank writes its shards."""
        begun = time.perf_counter()
        created: list[Path] = []

        def write(inside: Path, _: State) -> None:
            created.append(inside)
            sharded.write_shards(Path(world.broadcast_from_main(lambda: str(inside))), state.groups)

        if world.is_main:
            self._write_and_prune(state, write)
        if not created and (folder := world.broadcast_from_main(lambda: "")):
            sharded.write_shards(Path(folder), state.groups)
        seconds = time.perf_counter() - begun
        return [_saved(state, seconds, seconds)]

    def _write(self, state: State, blocked: float, copied: bool) -> SavedCheckpoint:
        begun = time.perf_counter()
        self._write_and_prune(state)
        seconds = time.perf_counter() - begun
        return _saved(state, seconds, blocked if copied else blocked + seconds)

    def _write_and_prune(self, state: State, write: Callable[[Path, State], None] | None = None) -> None:
        for record in self.records:
            if record.exists():
                sync_file(record)
        store.save(self.folder, state, write)
        thinning.prune(self.folder, self.keep_last, self.history)

    def close(self) -> None:
        """Wait for the checkpoint in progress. Its errors are no longer raised."""
        self._thread.shutdown()


def _saved(state: State, seconds: float, blocked_seconds: float) -> SavedCheckpoint:
    return SavedCheckpoint(state.step, state.val_loss, seconds, blocked_seconds, state.scheduled, state.weights_only)
