"""kill -9 at any moment, again and again: what is resumed ends in the bits of the run that was never killed."""

import random
import shutil
from pathlib import Path

import pytest

from conftest import Undisturbed
from fault_campaign import Tell, share
from fault_harness import SAVE_EVERY, Harness, last_due
from fork_server import Child

KILLS = 300
AIMED_AT = ("start-up", "step", "evaluation", "sampling", "save", "prune")
AGAIN = 0.3  # how often a process that goes on is shot at, too


class Shooting:
    """Shoots at visits of a phase; what goes on from there is sometimes shot at in any of them."""

    def __init__(self, undisturbed: Undisturbed, chance: random.Random) -> None:
        self.usual, self.chance = undisturbed, chance
        self.died: list[str] = []
        self.lost = 0  # steps, at most

    def one_run(self, harness: Harness, phase: str, most: int) -> None:
        child = harness.train()
        while self.hits(child, phase):
            most -= 1
            if not most or self.chance.random() > AGAIN:
                self.measure(child, harness.finish())
                return
            child, phase = harness.continue_run(), self.chance.choice(AIMED_AT)

    def hits(self, child: Child, phase: str) -> bool:
        """Or the process was through before, which one that had nothing left to do says with a 2."""
        visit = self.chance.randint(1, self.usual.visits[phase])
        child.send_signal_in(phase, visit, self.chance.uniform(0, self.usual.lengths[phase]))
        code = child.wait()
        assert code in (137, 0) or (code == 2 and "is finished" in child.output()), child.output()
        if code == 137:
            self.died.append(child.marks.phase)
        return code == 137

    def measure(self, killed: Child, resumed: Child) -> None:
        began = resumed.marks.began
        if began is None:  # it was saved to the end
            return
        self.lost = max(self.lost, killed.marks.steps - began)
        assert began >= max(killed.marks.began or 0, last_due(killed.marks.last_save) - SAVE_EVERY)


@pytest.mark.parametrize("phase", AIMED_AT)
def test_killed_run_ends_bit_identical(undisturbed: Undisturbed, tmp_path: Path, tell: Tell, phase: str) -> None:
    kills, shooting = share(KILLS) // len(AIMED_AT), Shooting(undisturbed, random.Random(phase))
    harness, runs = undisturbed.beside(tmp_path / "harness"), 0
    while (left := kills - len(shooting.died)) > 0:
        shutil.rmtree(harness.runs, ignore_errors=True)
        shooting.one_run(harness, phase, left)
        assert harness.contents() == undisturbed.remains, shooting.died
        runs += 1
    for died in shooting.died:
        tell("kill -9", f"died in {died}", 1)
    tell("kill -9", "runs, all with the same end", runs)
    tell("kill -9: most steps done again", f"aimed at {phase} (saved every {SAVE_EVERY})", str(shooting.lost))
