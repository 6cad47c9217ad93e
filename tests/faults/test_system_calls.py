"""The process dies, or the disk is full, at each single system call of a save; and at some of a whole training."""

import random
import shutil
from collections import Counter
from itertools import zip_longest
from pathlib import Path

import pytest

from conftest import Undisturbed
from fault_campaign import WHOLE, Tell, share
from fault_harness import Harness, digests
from fledge.checkpoint import store, thinning
from fledge.core.files import REPLACED
from fork_server import Child
from saving import NEW, OLD, STRIPPED, lay_down, lay_down_pending, save_again, save_and_prune
from tracing import Call, calls, kill_at, needs_strace, refuse, traced

pytestmark = needs_strace
IN_TRAINING = 60  # calls of a whole training that are struck


class Desk:
    """Where one checkpoint is saved, again and again."""

    lay_down, save = staticmethod(lay_down), staticmethod(save_and_prune)

    def __init__(self, folder: Path) -> None:
        self.folder, self.log, self.said = folder / "checkpoints", folder / "strace", folder / "said"
        self.start_over()
        child = self.saved_under()
        assert child.wait() == 0, child.output()
        self.calls, self.whole = calls(self.log, self.folder), digests(self.folder)

    def start_over(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.said.unlink(missing_ok=True)
        self.lay_down(self.folder)

    def saved_under(self, *injected: str) -> Child:
        child = Child(self.save, self.folder, log=self.said, held=True)
        with traced(child, self.log, *injected):
            child.release()
        return child

    def struck(self, *injected: str) -> Child:
        """A save in which something happens."""
        self.start_over()
        child = self.saved_under(*injected)
        child.wait()
        self.check()
        return child

    def check(self) -> None:
        """Nothing half-written may be taken for a checkpoint."""
        good, damaged = store.list_checkpoints(self.folder)
        assert damaged == []
        assert good[-1].step in (OLD[-1], NEW)
        whole = {checkpoint.step for checkpoint in good if not checkpoint.weights_only}
        assert {20, 30} <= whole, "the best, or the newest before, is lost"
        assert STRIPPED in {checkpoint.step for checkpoint in good}, "the weights of the history are lost"

    def again(self) -> None:
        child = Child(self.save, self.folder, log=self.said)
        assert child.wait() == 0, child.output()
        assert digests(self.folder) == self.whole


class Replacement(Desk):
    """Where the only checkpoint is replaced."""

    lay_down, save = staticmethod(lay_down_pending), staticmethod(save_again)

    def check(self) -> None:
        """One of the two is there, complete, once the next process has put things in order."""
        copy = self.folder.with_name("copy")
        shutil.copytree(self.folder, copy)
        thinning.remove_leftovers(copy)
        (found,), damaged = store.list_checkpoints(copy)
        shutil.rmtree(copy)
        assert (found.step, found.weights_only, damaged) == (NEW, False, [])


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"))


def some(found: list[Call], chance: random.Random) -> list[Call]:
    """All of them in the whole campaign; else some of each name."""
    if WHOLE:
        return found
    by_name = {name: [call for call in found if call.name == name] for name in {call.name for call in found}}
    return [chance.choice(by_name[name]) for name in sorted(by_name)]


def test_traced_save_has_all_kinds_of_calls(desk: Desk) -> None:
    """Otherwise the tests below would prove less than they say."""
    names = Counter(call.name for call in desk.calls)
    assert names["write"] >= 4
    assert names["fsync"] >= 6
    assert sum(count for name, count in names.items() if name.startswith("rename")) >= 2
    assert sum(count for name, count in names.items() if name.startswith("mkdir")) >= 1
    assert sum(count for name, count in names.items() if name.startswith("unlink")) >= 5


def test_save_killed_at_any_system_call(desk: Desk, tell: Tell) -> None:
    for call in some(desk.calls, random.Random(0)):
        child = desk.struck(*kill_at(call))
        assert child.wait() == 137, call
        desk.again()
        tell("system calls of one save", f"killed at {call.name}", 1)


@pytest.mark.parametrize("error", ["", "ENOSPC"])
def test_replacement_interrupted_at_any_system_call(tmp_path: Path, tell: Tell, error: str) -> None:
    """Also killed between the two renames, when neither has the name of the checkpoint."""
    desk = Replacement(tmp_path)
    renames = [call for call in desk.calls if call.name.startswith("rename")][-2:]
    assert [REPLACED in call.words for call in renames] == [True, False]
    for call in {*some(desk.calls, random.Random(2)), *renames}:
        child = desk.struck(*(refuse(call, error) if error else kill_at(call)))
        assert child.wait() == (2 if error else 137), call
        desk.again()
        tell("system calls of a replacement", f"{error or 'killed'} at {call.name}", 1)


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_save_with_any_system_call_failing(desk: Desk, tell: Tell, error: str) -> None:
    words = {"ENOSPC": "error: the disk is full: could not write '", "EIO": "error: the disk failed: "}
    for call in some(desk.calls, random.Random(1)):
        child = desk.struck(*refuse(call, error))
        assert child.wait() == 2, call
        assert words[error] in child.output(), call
        assert str(desk.folder) in child.output(), call
        assert "\nhint: " in child.output(), call
        desk.again()
        tell("system calls of one save", f"{error} at {call.name}", 1)


@pytest.mark.parametrize("harm", ["killed", "ENOSPC"])
def test_training_interrupted_at_any_system_call(
    undisturbed: Undisturbed, tmp_path: Path, tell: Tell, harm: str
) -> None:
    """Every file of the run has its turn, before any has its second."""
    harness = undisturbed.beside(tmp_path / "harness")
    for call in drawn(training_calls(harness, tmp_path / "strace"), share(IN_TRAINING) // 2, random.Random(harm)):
        shutil.rmtree(harness.runs)
        child = harness.train(held=True)
        with traced(child, tmp_path / "strace", *(kill_at(call) if harm == "killed" else refuse(call, harm))):
            child.release()
        code = child.wait()
        assert code in ((137, 0) if harm == "killed" else (2, 0)), (call, child.output())
        if code == 2:
            assert "error: the disk is full: could not write '/" in child.output(), call
            assert "\nhint: " in child.output(), call
        harness.finish()
        assert harness.contents() == undisturbed.remains, call
        tell("system calls of a training", f"{harm} at {call.name}", 1)


def training_calls(harness: Harness, log: Path) -> list[Call]:
    child = harness.train(held=True)
    with traced(child, log):
        child.release()
    assert child.wait() == 0, child.output()
    return calls(log, harness.runs)


def drawn(found: list[Call], count: int, chance: random.Random) -> list[Call]:
    turns: dict[str, list[Call]] = {}
    for call in chance.sample(found, len(found)):
        turns.setdefault(call.file, []).append(call)
    one_each = [call for turn in zip_longest(*turns.values()) for call in turn if call]
    return one_each[:count]
