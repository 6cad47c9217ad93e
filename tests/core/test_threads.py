"""Threads and the load of other programs, from a /proc made of files."""

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fledge.core import threads
from fledge.core.threads import (
    LoadMeter,
    SlowdownWatch,
    busy_warning,
    cpu_time,
    default_threads,
    local_ranks,
    threads_beside,
    wait_briefly,
)

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
    clock = SimpleNamespace(monotonic=iter(range(100, 200)).__next__, sleep=time.sleep)  # of this module, not of all
    monkeypatch.setattr(threads, "time", clock)
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
    ("average", "running", "cores", "expected"),
    [
        ("0.10", 3, 2, False),  # for a moment
        ("3.00", 1, 2, False),  # they have just ended
        ("0.90", 2, 2, True),
        ("4.00", 2, 16, False),
        ("4.00", 5, 16, True),
        ("x", 5, 2, False),
        ("4.00", None, 2, False),
    ],
)
def test_busy_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, average: str, running: int | None, cores: int, expected: bool
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert not threads.is_busy(tmp_path)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/loadavg").write_text(f"{average} 1.08 1.65 2/104 20956\n")
    (tmp_path / "proc/stat").write_text(
        "cpu 1 2\n" + (f"procs_running {running}\nprocs_blocked 0\n" if running else "")
    )
    assert threads.is_busy(tmp_path) is expected


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
    ],
)
def test_what_the_user_has_set_stays(
    environment: dict[str, str], expected: dict[str, str] | None, busy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = dict(environment)
    monkeypatch.setattr(threads, "is_busy", lambda: busy)
    wait_briefly(environment)
    assert "GOMP_SPINCOUNT" not in environment or environment.get("GOMP_SPINCOUNT") == "7"  # torch is loaded
    monkeypatch.delitem(sys.modules, "torch")
    wait_briefly(environment)
    assert environment == (expected or {"GOMP_SPINCOUNT": "0" if busy else threads.SPIN_COUNT})


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


@pytest.mark.parametrize(
    ("count", "load", "expected"),
    [(1, 1.0, 1), (2, 2.0, 2), (3, 1.0, 3), (4, 1.0, 3), (4, 2.0, 4), (16, 0.4, 16), (16, 4.2, 12), (16, 5.0, 16)],
)
def test_threads_beside_other_programs(count: int, load: float, expected: int) -> None:
    assert threads_beside(count, lambda: load) == expected
    assert threads_beside(count, lambda: None) == count


def test_what_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    ours = {"GOMP_SPINCOUNT": "1000"}
    assert busy_warning(None, 2, ours) is None
    assert busy_warning(0.3, 2, ours) is None
    expected = "other programs keep 1.0 of 2 cores busy: training takes longer (it uses 2 threads)"
    assert busy_warning(1.04, 2, ours) == expected
    assert "unset it" in str(busy_warning(1.0, 2, {"OMP_WAIT_POLICY": "active"}))
    assert "import fledge first" in str(busy_warning(1.0, 2, {}))


class Load(LoadMeter):
    """Says what it is told to."""

    def __init__(self, load: float | None) -> None:
        self.load = load

    def read(self) -> float | None:
        return self.load


@given(slow=st.floats(2.1, 50), usual=st.floats(0.001, 5), others=st.sampled_from([None, 0.1, 1.3]))
@example(slow=10, usual=100.0, others=1.3)  # a step takes longer than a window
def test_a_slow_minute_is_noticed_once(slow: float, usual: float, others: float | None) -> None:
    watch = SlowdownWatch(Load(others))
    assert not any(watch.add(usual) for _ in range(steps_in(200, usual)))
    assert watch.add(slow * usual) is None  # one slow step is no slow minute
    assert not any(watch.add(usual) for _ in range(steps_in(100, usual)))
    said = [text for _ in range(steps_in(400, slow * usual)) if (text := watch.add(slow * usual))]
    assert len(said) == 1
    share = int(said[0].partition(" %")[0].rpartition(" ")[2])
    assert 100 / slow - 1 <= share <= 50
    assert ("other programs keep 1.3 of" in said[0]) == (others == 1.3)


@given(st.lists(st.floats(0.5, 0.9), min_size=1, max_size=20))
def test_ordinary_variation_is_not_noticed(steps: list[float]) -> None:
    watch = SlowdownWatch(Load(2.0))
    assert not any(map(watch.add, itertools.islice(itertools.cycle(steps), 600)))


def steps_in(seconds: float, step: float) -> int:
    return max(8, int(seconds / step))
