"""Which checkpoints stay, which keep their weights only, and that none is ever damaged on the way."""

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fledge.checkpoint import store, thinning
from fledge.checkpoint.state import State
from fledge.core.errors import UserError

StateAt = Callable[..., State]
WHOLE = {"model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"}
STRIPPED = WHOLE - {"optimizer.safetensors"}


def kept(folder: Path) -> dict[int, bool]:
    """Step → whether it is complete. No checkpoint may be damaged."""
    good, damaged = store.list_checkpoints(folder)
    assert damaged == []
    return {each.step: not each.weights_only for each in good}


@given(steps=st.integers(1, 10**7), count=st.integers(0, 60))
def test_history_steps_are_distinct_and_reach_the_last(steps: int, count: int) -> None:
    found = thinning.history_steps(steps, count)
    assert len(found) == min(steps, count)
    assert all(before < after for before, after in itertools.pairwise(found))
    assert found == () or (found[0] == 1 and found[-1] == (steps if count > 1 else 1))


def test_history_steps_are_log_spaced() -> None:
    assert thinning.history_steps(1000, 10) == (1, 2, 4, 9, 20, 44, 96, 210, 458, 1000)


@pytest.mark.parametrize(("weight_bytes", "count"), [(1, 20), (10**18, 0), (0, 20)])
def test_history_shrinks_to_a_share_of_the_disk(tmp_path: Path, weight_bytes: int, count: int) -> None:
    assert thinning.affordable(tmp_path, 20, weight_bytes) == count


def test_history_takes_a_tenth_of_the_free_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(thinning.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert thinning.affordable(tmp_path, 20, 30) == 3


@pytest.mark.parametrize("keep_last", [1, 2])
def test_aged_checkpoints_of_the_history_keep_their_weights(tmp_path: Path, state_at: StateAt, keep_last: int) -> None:
    states = {step: state_at(step, loss) for step, loss in enumerate((5.0, 1.0, 4.0, 4.0, 3.0, None), start=1)}
    for state in states.values():
        store.save(tmp_path, state)
    for _ in range(2):  # the second time finds nothing to do
        thinning.prune(tmp_path, keep_last, history=(1, 2, 3, 6))
        complete = {2, *range(7 - keep_last, 7)}  # the best, and the newest
        assert kept(tmp_path) == {step: step in complete for step in sorted({1, 3, *complete})}
    assert {file.name for file in (tmp_path / "step-00000001").iterdir()} == STRIPPED
    stripped = store.describe(tmp_path / "step-00000001")
    assert stripped.val_loss == 5.0
    for load in (store.load_weights, lambda checkpoint: store.load(checkpoint).weights):
        weights = load(stripped)
        assert all(torch.equal(weights[name], tensor) for name, tensor in states[1].weights.items())
    assert store.load(stripped).optimizer == {}


def test_prune_keeps_the_newest_healthy_scheduled_one(tmp_path: Path, state_at: StateAt) -> None:
    """A rollback goes to it; neither what a clock nor what a signal has saved takes its place."""
    for step, (healthy, scheduled) in enumerate([(True, True), (True, True), (False, True), (True, False)], start=1):
        store.save(tmp_path, replace(state_at(step), healthy=healthy, scheduled=scheduled))
    thinning.prune(tmp_path, 1)
    assert list(kept(tmp_path)) == [2, 4]
    target = store.find_intact(tmp_path, store.rollback_target_of)
    assert target is not None
    assert target.step == 2


def test_rollback_target_without_a_healthy_one_is_the_newest_of_a_fixed_step(tmp_path: Path) -> None:
    def made(step: int, **marks: bool) -> store.Checkpoint:
        return store.Checkpoint(tmp_path, step, None, False, **{"healthy": False, **marks})

    assert store.rollback_target_of([made(1), made(2), made(3, scheduled=False, healthy=True)]) == made(2)
    assert store.rollback_target_of([made(1, scheduled=False), made(2, healthy=True, weights_only=True)]) is None


def test_damaged_rollback_target_gives_way_to_the_one_before(tmp_path: Path, state_at: StateAt) -> None:
    for step in (1, 2):
        store.save(tmp_path, state_at(step))
    (tmp_path / "step-00000002" / "model.safetensors").write_bytes(b"")
    target = store.find_intact(tmp_path, store.rollback_target_of)
    assert target is not None
    assert target.step == 1


def test_latest_is_complete_and_a_step_need_not_be(tmp_path: Path, state_at: StateAt) -> None:
    store.save(tmp_path, state_at(1))
    store.save(tmp_path, replace(state_at(2), weights_only=True))
    assert store.find_checkpoint(tmp_path, "latest")[0].step == 1
    found = store.find_checkpoint(tmp_path, "2")[0]
    assert (found.weights_only, {file.name for file in found.folder.iterdir()}) == (True, STRIPPED)
    assert not store.is_unsaved(tmp_path)


def test_weights_alone_are_nothing_to_continue_from(tmp_path: Path, state_at: StateAt) -> None:
    assert store.is_unsaved(tmp_path)
    store.save(tmp_path, replace(state_at(2), weights_only=True))
    assert store.is_unsaved(tmp_path)
    with pytest.raises(UserError, match="no checkpoint 'latest'") as refusal:
        store.find_checkpoint(tmp_path, "latest")
    assert "2" in refusal.value.hint
    (tmp_path / "step-00000002" / "manifest.json").write_text("")
    assert not store.is_unsaved(tmp_path), "it may have been a complete one"


def test_complete_checkpoint_replaces_weights_and_not_the_reverse(tmp_path: Path, state_at: StateAt) -> None:
    weights = replace(state_at(2), weights_only=True)
    for state in (weights, state_at(2), weights):
        store.save(tmp_path, state)
    assert kept(tmp_path) == {2: True}


def test_scheduled_checkpoint_replaces_one_by_time_and_not_the_reverse(tmp_path: Path, state_at: StateAt) -> None:
    by_time = replace(state_at(2), scheduled=False)
    for state in (by_time, state_at(2), by_time):
        store.save(tmp_path, state)
    assert [each.scheduled for each in store.complete_checkpoints(tmp_path)] == [True]


def test_interrupted_strip_is_completed(tmp_path: Path, state_at: StateAt, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the manifest was replaced, or before: the checkpoint is weights-only, or complete."""
    for step in (1, 2):
        store.save(tmp_path, state_at(step))
    folder = tmp_path / "step-00000001"
    with monkeypatch.context() as patch:
        patch.setattr(thinning, "_remove_unnamed", lambda _: None)
        thinning.strip_to_weights(store.describe(folder))
    (folder / ".partial-manifest").write_text("half of")
    (tmp_path / "step-00000002" / ".partial-manifest").write_text("half of")
    assert {file.name for file in folder.iterdir()} > WHOLE
    assert kept(tmp_path) == {1: False, 2: True}
    assert store.load(store.describe(folder)).optimizer == {}
    thinning.remove_leftovers(tmp_path)
    assert {file.name for file in folder.iterdir()} == STRIPPED
    assert {file.name for file in (tmp_path / "step-00000002").iterdir()} == WHOLE


def test_strip_while_another_program_reads(tmp_path: Path, state_at: StateAt, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = store.save(tmp_path, state_at(1))
    usual = store.hash_of

    def hash_of(path: Path) -> str:
        if path.name == "optimizer.safetensors":
            thinning.strip_to_weights(checkpoint)
        return usual(path)

    monkeypatch.setattr(store, "hash_of", hash_of)
    assert store.verify(checkpoint.folder).weights_only
