"""One bit that flips, or an end that is missing, in any file that matters: found before it is used, and named."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Undisturbed
from fault_campaign import Tell, share
from fault_harness import Harness
from fledge.checkpoint import store
from fledge.core.errors import UserError
from fledge.datasets.shards import open_dataset
from fledge.runs.run_folder import RunFolder, open_run

FLIPS, CUTS = 1000, 200
Check = Callable[[], str]  # what is said of the damage; nothing where it goes unnoticed


class Patient:
    """A file that is damaged in many ways, and healed each time."""

    def __init__(self, path: Path, check: Check) -> None:
        self.path, self.whole, self.check = path, path.read_bytes(), check

    def is_noticed(self, content: bytes) -> bool:
        self.path.write_bytes(content)
        try:
            return str(self.path) in self.check()
        finally:
            self.path.write_bytes(self.whole)

    def flipped(self, chance: random.Random) -> bytes:
        place = chance.randrange(8 * len(self.whole))
        content = bytearray(self.whole)
        content[place // 8] ^= 1 << place % 8
        return bytes(content)

    def cut(self, chance: random.Random) -> bytes:
        return self.whole[: chance.randrange(len(self.whole))]


def of_checkpoint(harness: Harness) -> Check:
    """What `resume` does: the newest is named, and the one before it is loaded, whole."""
    folder = RunFolder(harness.run).checkpoints
    before = store.complete_checkpoints(folder)[-2].step

    def check() -> str:
        found, damaged = store.find_checkpoint(folder)
        assert not damaged or store.load(found).step == found.step == before
        return "; ".join(damaged)

    return check


def of_run(harness: Harness) -> Check:
    def check() -> str:
        try:
            open_run(harness.run.name, harness.runs, default="best").load()
        except UserError as refusal:
            return refusal.message
        return ""

    return check


def of_dataset(folder: Path) -> Check:
    def check() -> str:
        try:
            open_dataset(folder)
        except UserError as refusal:
            return refusal.message
        return ""

    return check


KINDS = (
    "model.safetensors",
    "optimizer.safetensors",
    "state.json",
    "manifest.json",
    "config.toml",
    "run.json",
    "tokenizer.json",
    "dataset/train/00000.tokens",
    "dataset/val/00000.tokens",
    "dataset/tokenizer.json",
    "dataset/dataset.json",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    """A finished run and its dataset, to be damaged."""
    harness = Harness(tmp_path_factory.mktemp("damage"))
    harness.finish()
    return harness


def patient(harness: Harness, kind: str) -> Patient:
    if kind.startswith("dataset/"):
        (folder,) = (harness.cache / "datasets").iterdir()
        return Patient(folder / kind.removeprefix("dataset/"), of_dataset(folder))
    if (harness.run / kind).exists():
        return Patient(harness.run / kind, of_run(harness))
    return Patient(store.find_checkpoint(RunFolder(harness.run).checkpoints)[0].folder / kind, of_checkpoint(harness))


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_file_is_named_and_not_used(trained: Harness, tell: Tell, kind: str) -> None:
    chance, file = random.Random(kind), patient(trained, kind)
    assert not file.check(), "the whole file is taken for a damaged one"
    for harm, damaged, count in (("flipped", file.flipped, share(FLIPS)), ("cut", file.cut, share(CUTS))):
        noticed = sum(file.is_noticed(damaged(chance)) for _ in range(count))
        tell("damage", f"{kind}, {harm}", f"{noticed} of {count}")
        assert noticed == count


def test_format_that_a_flipped_bit_raises_is_noticed(trained: Harness) -> None:
    file = patient(trained, "run.json")
    assert file.is_noticed(file.whole.replace(b'"format": 1', b'"format": 3'))


@pytest.mark.parametrize("kind", ["config.toml", "run.json", "tokenizer.json", "dataset/train/00000.tokens"])
def test_resume_refuses_a_damaged_file_by_name(trained: Harness, kind: str) -> None:
    file = patient(trained, kind)
    file.path.write_bytes(file.flipped(random.Random(kind)))
    try:
        child = trained.continue_run()
        assert child.wait() == 2
    finally:
        file.path.write_bytes(file.whole)
    assert "error: " in child.output()
    assert str(file.path) in child.output()
    assert "hint: " in child.output()


@pytest.mark.parametrize("kind", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_resume_falls_back_to_the_checkpoint_before(undisturbed: Undisturbed, tmp_path: Path, kind: str) -> None:
    harness = undisturbed.beside(tmp_path / "harness")
    shutil.copytree(undisturbed.harness.runs, harness.runs)
    file = patient(harness, kind)
    file.path.write_bytes(file.cut(random.Random(kind)))
    child = harness.continue_run()
    assert child.wait() == 0, child.output()
    assert f"warning: {file.path} is damaged" in child.output()
    assert harness.contents() == undisturbed.remains
