"""Checkpoints on their way to the disk while training goes on: a snapshot is taken, and a thread writes it.

One at a time, in the order they were taken. What goes wrong there is raised here, at the next question.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fledge.checkpoint import sharded, store
from fledge.checkpoint.sharded import MEMORY, MODEL
from fledge.checkpoint.state import State, snapshot, state_bytes
from fledge.core.device import free_memory
from fledge.core.distributed import World
from fledge.core.files import sync_file


@dataclass(frozen=True)
class SavedCheckpoint:
    step: int
    val_loss: float | None
    seconds: float  # until it was on the disk
    held: float  # how long training stood still for it


class AsyncSaver:
    """`records`: files that tell of the steps before a checkpoint, and must be on the disk no later than it."""

    def __init__(self, folder: Path, keep_last: int, records: Sequence[Path] = ()) -> None:
        self.folder, self.keep_last, self.records = folder, keep_last, records
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._pending: Future[SavedCheckpoint] | None = None

    def save(self, state: State) -> list[SavedCheckpoint]:
        """Says what was finished by now: an earlier one; and this one, where memory has no room for a copy."""
        begun = time.perf_counter()
        done = self.finished(wait=True)
        if room := free_memory("cpu") > 2 * state_bytes(state):
            state = snapshot(state)
        self._pending = self._thread.submit(self._write, state, time.perf_counter() - begun, room)
        return done if room else done + self.finished(wait=True)

    def finished(self, *, wait: bool = False) -> list[SavedCheckpoint]:
        pending = self._pending
        if pending is None or not (wait or pending.done()):
            return []
        self._pending = None
        return [pending.result()]

    def save_parts(self, state: State, world: World) -> list[SavedCheckpoint]:
        """By all ranks, while training stands still: the first makes the folder, and each writes its part into it."""
        begun = time.perf_counter()
        tensors = {f"{MODEL}/{name}": tensor for name, tensor in state.weights.items()}
        tensors |= {f"{MEMORY}/{name}": tensor for name, tensor in state.optimizer.items()}
        places: list[Path] = []

        def announced(inside: Path, _: State) -> None:
            places.append(inside)
            sharded.write(Path(world.broadcast_from_main(lambda: str(inside))), tensors)

        if world.is_main:
            self._keep(state, announced)
        if not places and (place := world.broadcast_from_main(lambda: "")):  # nowhere, if it was there already
            sharded.write(Path(place), tensors)
        seconds = time.perf_counter() - begun
        return [SavedCheckpoint(state.step, state.val_loss, seconds, seconds)]

    def _write(self, state: State, held: float, beside: bool) -> SavedCheckpoint:
        begun = time.perf_counter()
        self._keep(state)
        seconds = time.perf_counter() - begun
        return SavedCheckpoint(state.step, state.val_loss, seconds, held if beside else held + seconds)

    def _keep(self, state: State, write: Callable[[Path, State], None] | None = None) -> None:
        for record in self.records:
            if record.exists():
                sync_file(record)
        store.save(self.folder, state, write)
        store.prune(self.folder, self.keep_last)

    def close(self) -> None:
        """What is being written is written to its end; nobody asks any more how it went."""
        self._thread.shutdown()
