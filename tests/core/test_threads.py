"""Threads and the load of other programs, from a /proc made of files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fledge.core import threads
from fledge.core.threads import LoadMeter, cpu_time, default_threads, local_ranks, wait_briefly

TICK = os.sysconf("SC_CLK_TCK")


def proc_stat(root: Path, seconds: dict[int, float], idle: float = 0.0) -> None:
    """/proc/stat where the cores have been busy for so many seconds."""
    (root / "proc").mkdir(exist_ok=True)
    rows = [f"cpu{core} {round(busy * TICK)} 0 0 {round(idle * TICK)} 50 0 0 0 9 9" for core, busy in seconds.items()]
    (root / "proc/stat").write_text("\n".join(["cpu 1 2 3 4 5 6 7 8 9 10", *rows, "intr 12 0 0", "ctxt 5"]) + "\n")


def process(root: Path, number: int, parent: int, seconds: float, name: str = "python") -> None:
    (root / f"proc/{number}").mkdir(parents=True, exist_ok=True)
    ticks = round(seconds * TICK)
    before = "S", parent, 1, 1, 0, -1, 4194304, 0, 0, 0, 0
    row = " ".join(map(str, [*before, ticks, 0, 0, 0, 20, 0]))
    (root / f"proc/{number}/stat").write_text(f"{number} ({name}) {row}\n")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two cores, of which this process may use both; one second has passed between two readings."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(threads.time, "monotonic", iter(range(100, 200)).__next__)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    proc_stat(tmp_path, {0: 50, 1: 60, 2: 70})
    process(tmp_path, os.getpid(), os.getppid(), 10)
    return tmp_path


def test_own_time_is_not_the_load_of_others(root: Path) -> None:
    meter = LoadMeter(root)
    proc_stat(root, {0: 51, 1: 60.5, 2: 71}, idle=1)  # core 2 is not ours
    process(root, os.getpid(), os.getppid(), 10.5)
    assert meter.read() == pytest.approx(1.0)
    proc_stat(root, {0: 52, 1: 61.5, 2: 71})
    process(root, os.getpid(), os.getppid(), 12.5)
    assert meter.read() == 0.0


def test_children_are_own_and_strangers_are_not(root: Path) -> None:
    process(root, 900001, os.getpid(), 1, name="a) S 1 (b")
    process(root, 900002, 900001, 1)
    process(root, 900003, 1, 1)
    (root / "proc/900004").mkdir()  # has just ended
    meter = LoadMeter(root)
    proc_stat(root, {0: 51, 1: 61})
    process(root, 900001, os.getpid(), 1.25, name="a) S 1 (b")
    process(root, 900002, 900001, 1.5)
    process(root, 900003, 1, 2)
    assert meter.read() == pytest.approx(1.25)


def test_other_ranks_are_own(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    process(root, 900001, os.getppid(), 1)
    meter = LoadMeter(root)
    proc_stat(root, {0: 51, 1: 61})
    process(root, 900001, os.getppid(), 2)
    assert meter.read() == pytest.approx(1.0)


@pytest.mark.parametrize("text", ["", "cpu 1 2 3\n", "cpu0 a b c\n"])
def test_system_that_does_not_say(root: Path, text: str) -> None:
    (root / "proc/stat").write_text(text)
    assert LoadMeter(root).read() is None
    (root / "proc/stat").unlink()
    assert cpu_time(root) is None


def test_time_of_a_child_that_has_ended_is_own() -> None:
    before = cpu_time()
    if before is None:
        pytest.skip("no /proc/stat")
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
    after = cpu_time()
    assert after
    assert after.own - before.own > 0.2
    assert after.all - before.all > 0.2


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": threads.SPIN_COUNT}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
    ],
)
def test_what_the_user_has_set_stays(
    environment: dict[str, str], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_briefly(environment)
    assert "GOMP_SPINCOUNT" not in environment or environment.get("GOMP_SPINCOUNT") == "7"  # torch is loaded
    monkeypatch.delitem(sys.modules, "torch")
    wait_briefly(environment)
    assert environment == expected


@pytest.mark.parametrize(
    ("given", "ranks", "expected"),
    [
        (None, None, 4),  # torch's own choice: physical cores
        ("3", None, 3),
        ("1", None, 1),
        ("16", None, 16),
        ("3,2", None, 3),
        ("", None, 4),
        ("many", None, 4),
        (None, "2", 3),
        ("1", "2", 3),  # set by torchrun
        ("2", "2", 2),
        (None, "16", 1),
    ],
)
def test_number_of_threads(
    given: str | None, ranks: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 6)
    for name, value in (("OMP_NUM_THREADS", given), ("LOCAL_WORLD_SIZE", ranks)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert default_threads(of_torch=4) == expected
    assert local_ranks() == int(ranks or 1)


def test_quota_lowers_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    assert default_threads(of_torch=64) == 2
