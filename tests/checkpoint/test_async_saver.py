"""Saving beside training: what was taken is what is written, one at a time, and failures are not lost."""

import errno
import os
import threading
from pathlib import Path

import pytest
import torch

from fledge.checkpoint import async_saver, store
from fledge.checkpoint.async_saver import AsyncSaver
from fledge.core import files


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Writing waits until this is set."""
    go, usual = threading.Event(), store.save

    def waiting(*args):
        assert go.wait(30)
        return usual(*args)

    monkeypatch.setattr(async_saver.store, "save", waiting)
    return go


def test_later_updates_are_not_in_the_checkpoint(tmp_path: Path, state_at, slow) -> None:
    state, beside = state_at(3), AsyncSaver(tmp_path, 2)
    before = {name: tensor.clone() for name, tensor in state.weights.items()}
    assert beside.save(state) == []
    for tensor in state.weights.values():
        tensor.zero_()
    assert beside.finished() == []
    slow.set()
    [written] = beside.finished(wait=True)
    assert written.step == 3
    saved = store.load_weights(store.find_checkpoint(tmp_path)[0])
    assert all(torch.equal(before[name], saved[name]) for name in before)
    beside.close()


def test_saves_run_one_at_a_time(tmp_path: Path, state_at) -> None:
    beside = AsyncSaver(tmp_path, 9)
    told = [each.step for step in range(1, 6) for each in beside.save(state_at(step))]
    told += [each.step for each in beside.finished(wait=True)]
    assert told == [1, 2, 3, 4, 5]
    assert [found.step for found in store.complete_checkpoints(tmp_path)] == [1, 2, 3, 4, 5]
    beside.close()


def test_save_blocks_without_memory_for_a_copy(tmp_path: Path, state_at, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(async_saver, "free_memory", lambda _: 0)
    beside = AsyncSaver(tmp_path, 2)
    [written] = beside.save(state_at(4))
    assert written.blocked_seconds >= written.seconds
    assert store.find_checkpoint(tmp_path)[0].step == 4
    beside.close()


def test_error_is_raised_by_the_next_call(tmp_path: Path, state_at, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = AsyncSaver(tmp_path, 2)
    beside.save(state_at(1))
    beside.finished(wait=True)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x"))

    monkeypatch.setattr(async_saver.store, "save", full)
    beside.save(state_at(2))
    with pytest.raises(OSError, match="No space left"):
        beside.finished(wait=True)
    assert store.find_checkpoint(tmp_path)[0].step == 1
    beside.close()


def test_records_are_synced_before_the_checkpoint(tmp_path: Path, state_at, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that was lost in a power cut would never be written again."""
    record, order = tmp_path / "metrics.csv", []
    record.write_text("step\n")
    fsync, rename = os.fsync, Path.rename

    def synced(handle: int) -> None:
        order.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        fsync(handle)

    def renamed(self: Path, target: Path) -> Path:
        order.append(str(target))
        return rename(self, target)

    monkeypatch.setattr(files.os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    beside = AsyncSaver(tmp_path / "checkpoints", 2, [record, tmp_path / "never-written.md"])
    beside.save(state_at(1))
    beside.finished(wait=True)
    beside.close()
    assert order.index(str(record)) < order.index(str(tmp_path / "checkpoints" / "step-00000001"))
