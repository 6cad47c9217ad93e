"""SIGTERM and SIGINT at any moment: a soft landing within ten seconds, and afterwards the same bits."""

import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from conftest import Undisturbed
from fault_campaign import WHOLE, Tell, share
from fault_harness import Harness
from fledge.checkpoint import store
from fledge.core.device import find_compiler
from fledge.runs.run_folder import RunFolder
from fork_server import Child

PROMISED = 10 if WHOLE else 60  # seconds; in the whole suite, other tests use the processor as well
STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130}
SIGNALS = 160  # in the phases below
AIMED_AT = ("start-up", "preparing", "step", "evaluation", "sampling", "save", "prune", "end")
COMPILED = ("--train.compile", "true")


def ended(child: Child, phase: str, number: signal.Signals, tell: Tell) -> int:
    """In time, with the status it owes, or as if nothing had been asked because all was done."""
    begun = time.perf_counter()
    code = child.wait()
    taken = time.perf_counter() - begun
    assert taken < PROMISED, f"{taken:.1f} s"
    all_said = "next: fledge generate" in child.output()  # then it comes to whoever called fledge, and is not its own
    assert code in (STATUS[number], 0) or all_said, child.output()
    assert "Traceback" not in child.output()
    tell("signals: seconds to the exit, at most", phase, round(taken, 1))
    return code


@pytest.mark.parametrize("number", STATUS, ids=lambda number: number.name)
@pytest.mark.parametrize("phase", AIMED_AT)
def test_stopped_run_exits_in_time_and_resumes_bit_identically(
    undisturbed: Undisturbed, tmp_path: Path, tell: Tell, phase: str, number: signal.Signals
) -> None:
    chance, wanted = random.Random(f"{phase} {number}"), max(1, share(SIGNALS) // (len(AIMED_AT) * len(STATUS)))
    struck = 0
    for trial in range(10 * wanted):
        if struck == wanted:
            break
        harness = Harness(tmp_path / str(trial)) if phase == "preparing" else undisturbed.beside(tmp_path / "harness")
        shutil.rmtree(harness.runs, ignore_errors=True)
        child = harness.train()
        visit = chance.randint(1, undisturbed.visits[phase])
        if not child.send_signal_in(phase, visit, chance.uniform(0, undisturbed.lengths[phase]), number):
            assert child.wait() == 0, child.output()
            continue
        struck += 1
        code = ended(child, phase, number, tell)
        if code and child.marks.steps:
            saved, damaged = store.find_checkpoint(RunFolder(harness.run).checkpoints)
            assert (saved.step, damaged) == (child.marks.steps, [])
        harness.finish()
        assert harness.contents() == undisturbed.remains
        tell("signals", f"{number.name} in {phase}, status {code}", 1)
    assert struck == wanted, "most came too late"


@pytest.mark.skipif(not find_compiler("cpu").value, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("number", list(STATUS) if WHOLE else [signal.SIGTERM], ids=lambda number: number.name)
def test_stop_during_compilation_exits_in_time(
    undisturbed: Undisturbed, tmp_path: Path, tell: Tell, number: signal.Signals
) -> None:
    harness = undisturbed.beside(tmp_path / "harness")
    child = harness.train(*COMPILED)
    assert child.send_signal_in("compiling", 1, 1.0, number), child.output()
    assert ended(child, "compiling", number, tell) == STATUS[number]
    good, damaged = store.list_checkpoints(RunFolder(harness.run).checkpoints)
    assert damaged == []
    assert len(good) <= 1
    tell("signals", f"{number.name} in compiling, status {STATUS[number]}", 1)
