"""Checkpoints on disk: whole, hashed, or not there at all."""

import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
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
FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


@pytest.fixture
def two(tmp_path: Path, state_at: StateAt) -> Path:
    """A folder with a checkpoint of step 10 and one of step 20."""
    for step in (10, 20):
        store.save(tmp_path / "checkpoints", state_at(step, 3.0 - step / 100))
    return tmp_path / "checkpoints"


def test_save_and_load_are_bit_identical(tmp_path: Path, state_at: StateAt) -> None:
    state = state_at(7, 1.25)
    loaded = store.load(store.save(tmp_path, state))
    assert (loaded.step, loaded.val_loss, loaded.rng) == (7, 1.25, state.rng)
    for ours, theirs in ((state.weights, loaded.weights), (state.optimizer, loaded.optimizer)):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert ours[name].dtype == theirs[name].dtype
            assert torch.equal(ours[name], theirs[name]), name
    only_weights = store.load_weights(store.find_checkpoint(tmp_path)[0])
    assert all(torch.equal(only_weights[name], state.weights[name]) for name in state.weights)


def test_same_state_gives_the_same_bytes(tmp_path: Path, state_at: StateAt) -> None:
    state = state_at(3)
    one, two = (store.save(tmp_path / name, state).folder for name in ("one", "two"))
    for name in FILES:
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_checkpoint_has_four_files(two: Path) -> None:
    folder = two / "step-00000020"
    assert {file.name for file in folder.iterdir()} == set(FILES)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["files"]) == set(FILES) - {"manifest.json"}
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in manifest["files"].values())


def test_find_latest_best_and_step(two: Path) -> None:
    assert store.find_checkpoint(two, "latest")[0].step == 20
    assert store.find_checkpoint(two, "best")[0].step == 20
    assert store.find_checkpoint(two, "10")[0].step == 10
    with pytest.raises(UserError, match="no checkpoint '15'") as refusal:
        store.find_checkpoint(two, "15")
    assert "10, 20" in refusal.value.hint


def test_best_has_the_lowest_loss_and_is_the_latest_of_equals(tmp_path: Path, state_at: StateAt) -> None:
    for step, loss in ((1, 2.0), (2, 1.0), (3, 1.0), (4, None), (5, float("nan"))):
        store.save(tmp_path, state_at(step, loss))
    assert store.find_checkpoint(tmp_path, "best")[0].step == 3


def test_best_without_losses_is_the_latest(tmp_path: Path, state_at: StateAt) -> None:
    for step in (1, 2):
        store.save(tmp_path, state_at(step))
    assert store.find_checkpoint(tmp_path, "best")[0].step == 2


@pytest.mark.parametrize("name", FILES)
def test_flipped_bit_falls_back_to_the_checkpoint_before(two: Path, name: str) -> None:
    file = two / "step-00000020" / name
    whole = file.read_bytes()
    chance = random.Random(name)
    for _ in range(40):
        place = chance.randrange(8 * len(whole))
        broken = bytearray(whole)
        broken[place // 8] ^= 1 << place % 8
        file.write_bytes(broken)
        found, damaged = store.find_checkpoint(two)
        assert found.step == 10, place
        assert len(damaged) == 1
        assert str(file) in damaged[0]
        only_training = name == "optimizer.safetensors"
        assert store.find_checkpoint(two, weights_only=True)[0].step == (20 if only_training else 10)
        for load in (store.load, *(() if only_training else (store.load_weights,))):
            with pytest.raises(store.DamagedCheckpoint, match=re.escape(str(file))):
                load(store.Checkpoint(file.parent, 20, None, False, True))
    file.write_bytes(whole)
    assert store.find_checkpoint(two)[0].step == 20


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999, None])
def test_truncated_or_missing_file_is_named(two: Path, name: str, kept: float | None) -> None:
    file = two / "step-00000020" / name
    if kept is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    found, damaged = store.find_checkpoint(two)
    assert found.step == 10
    assert str(file) in damaged[0]


@pytest.mark.parametrize("name", FILES)
def test_folder_in_place_of_a_file_is_damage(two: Path, name: str) -> None:
    file = two / "step-00000020" / name
    file.unlink()
    file.mkdir()
    found, damaged = store.find_checkpoint(two)
    assert (found.step, damaged) == (10, [f"{file} is damaged"])


def test_renamed_copy_is_not_a_later_step(two: Path) -> None:
    shutil.copytree(two / "step-00000010", two / "step-00000099")
    found, damaged = store.find_checkpoint(two)
    assert (found.step, found.folder.name) == (20, "step-00000020")
    assert damaged == [f"{two / 'step-00000099' / 'manifest.json'} is damaged"]


@pytest.mark.parametrize("name", ["step-notes", "step-00000020.bak", "step-²²²²²²²²"])
def test_other_files_beside_checkpoints_stay(two: Path, name: str) -> None:
    (two / name).mkdir()
    assert store.list_checkpoints(two)[1] == []
    store.remove_after(two, -1)
    assert [path.name for path in two.iterdir()] == [name]


@pytest.mark.parametrize("target", ["step-far", "nowhere"])
def test_only_the_link_is_removed(two: Path, target: str) -> None:
    (two / "step-00000020").rename(two.parent / "step-far")
    (two / "step-00000020").symlink_to(two.parent / target)
    store.remove_after(two, 10)
    assert [path.name for path in two.iterdir()] == ["step-00000010"]
    assert (two.parent / "step-far" / "manifest.json").exists()


def test_file_in_place_of_a_checkpoint_is_removed(two: Path) -> None:
    shutil.rmtree(two / "step-00000020")
    (two / "step-00000020").write_text("")
    store.remove_after(two, 10)
    assert [path.name for path in two.iterdir()] == ["step-00000010"]


@given(
    content=st.binary(max_size=40) | st.sampled_from([b"[]", b"{}", b"null", b'"x"', b"1", b'{"checksum": 1}', b"[1]"])
)
def test_arbitrary_manifest_is_damaged(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("any") / "step-00000001"
    folder.mkdir()
    (folder / "manifest.json").write_bytes(content)
    good, damaged = store.list_checkpoints(folder.parent)
    assert good == []
    assert len(damaged) == 1


def test_error_names_all_damaged_checkpoints(two: Path) -> None:
    for folder in two.iterdir():
        (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"step-00000010.*step-00000020"):
        store.find_checkpoint(two)


def test_damaged_checkpoint_is_replaced_at_its_step(two: Path, state_at: StateAt) -> None:
    (two / "step-00000020" / "state.json").write_text("{}")
    store.save(two, state_at(20, 2.8))
    assert store.find_checkpoint(two)[0].step == 20


def test_intact_checkpoint_is_not_overwritten(two: Path, state_at: StateAt) -> None:
    before = (two / "step-00000020" / "model.safetensors").stat().st_mtime_ns
    kept = store.save(two, state_at(20, 9.9))
    assert kept.val_loss == pytest.approx(2.8)
    assert (two / "step-00000020" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("number", range(1, 7))
def test_failed_save_keeps_the_checkpoint_of_its_step(
    tmp_path: Path, state_at: StateAt, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """One with pending hooks, which is to be replaced. The calls: four files, the folder, the folder above."""
    store.save(tmp_path, replace(state_at(1), pending_hooks={}))
    usual, calls = os.fsync, []

    def fsync(handle: int) -> None:
        calls.append(handle)
        if len(calls) == number:
            assert store.verify(tmp_path / "step-00000001").pending_hooks == (number < 6)
            raise KeyboardInterrupt
        usual(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(KeyboardInterrupt):
        store.save(tmp_path, state_at(1))
    (found,) = store.list_checkpoints(tmp_path)[0]
    assert found.pending_hooks == (number < 6)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("keep_last", [1, 2, 3])
def test_prune_keeps_the_newest_and_the_best(tmp_path: Path, state_at: StateAt, keep_last: int) -> None:
    for step, loss in enumerate((5.0, 1.0, 4.0, 4.0, 3.0, None), start=1):
        store.save(tmp_path, state_at(step, loss))
    for _ in range(2):  # and the second time finds nothing to do
        thinning.prune(tmp_path, keep_last)
        good, damaged = store.list_checkpoints(tmp_path)
        assert [c.step for c in good] == [2, *range(7 - keep_last, 7)]
        assert damaged == []


def test_prune_keeps_the_best_intact_one(tmp_path: Path, state_at: StateAt) -> None:
    for step, loss in enumerate((2.0, 1.0, 4.0, 3.0), start=1):
        store.save(tmp_path, state_at(step, loss))
    weights = tmp_path / "step-00000002" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    thinning.prune(tmp_path, 1)
    assert [c.step for c in store.complete_checkpoints(tmp_path)] == [1, 4]


def test_prune_keeps_the_newest_healthy_checkpoint(tmp_path: Path, state_at: StateAt) -> None:
    for step, healthy in enumerate((True, True, False, False), start=1):
        store.save(tmp_path, replace(state_at(step), healthy=healthy))
    thinning.prune(tmp_path, 1)
    assert [(c.step, c.healthy) for c in store.complete_checkpoints(tmp_path)] == [(2, True), (4, False)]


def test_leftovers_of_a_killed_save_are_removed(two: Path) -> None:
    leftover = two / ".partial-step-00000030-abc"
    shutil.copytree(two / "step-00000020", leftover)
    (leftover / "manifest.json").unlink()
    found, damaged = store.find_checkpoint(two)
    assert (found.step, damaged) == (20, [])
    thinning.prune(two, 2)
    assert sorted(path.name for path in two.iterdir()) == ["step-00000010", "step-00000020"]


def test_failed_save_leaves_nothing(two: Path, state_at: StateAt) -> None:
    state = state_at(30)
    state.rng["cpu"] = object()  # type: ignore[assignment]  # cannot be written, after the tensors were
    with pytest.raises(TypeError):
        store.save(two, state)
    assert sorted(path.name for path in two.iterdir()) == ["step-00000010", "step-00000020"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a disk of so many kilobytes."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.getuid() != 0 or mount is None or umount is None:
        pytest.skip("only root can make a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    made = []

    def make(kilobytes: int) -> Path:
        done = subprocess.run(
            [mount, "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)], capture_output=True
        )
        if done.returncode:
            pytest.skip("this machine lets nobody mount")
        made.append(folder)
        return folder

    yield make
    for disk in made:
        subprocess.run([umount, str(disk)], check=True)


# The sizes fill up at different places of the second checkpoint.
@pytest.mark.parametrize("kilobytes", [76, 100, 110])
def test_full_disk_keeps_the_old_checkpoint(
    small_disk: Callable[[int], Path], state_at: StateAt, kilobytes: int
) -> None:
    disk = small_disk(kilobytes)
    store.save(disk, state_at(1))
    with pytest.raises(OSError, match="No space left"):
        store.save(disk, state_at(2))
    found, damaged = store.find_checkpoint(disk)
    assert damaged == []
    assert store.load(found).step == found.step
    assert not list(disk.glob(".partial*"))


def test_source_never_uses_pickle() -> None:
    source = Path(store.__file__).parents[1]
    for file in source.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"\b(import|from) (pickle|dill|cloudpickle|joblib|shelve|marshal)\b", text), file
        assert not re.search(r"(?<!safetensors\.)\b(torch\.save|pickle\.\w+)\(", text), file
        assert not re.search(r"\bnp\.load\((?![^()]*allow_pickle=False)", text), file
        # What others have pickled is opened for its tensors alone.
        assert not re.search(r"\btorch\.load\((?![^()]*weights_only=True)", text), file
