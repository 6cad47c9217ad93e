"""Cores, threads and the load of other programs. Imports no torch.

    wait_briefly()           makes torch's idle threads give up their core; called before torch is loaded
    default_threads(...)     the number of threads that compute
    threads_beside(...)      the same, reduced while other programs keep some of the cores busy
    LoadMeter, other_load    how many cores other programs keep busy
    SlowdownWatch            notices that steps have become slow

A matrix product is split evenly over the threads, and all wait for the slowest. So a program that keeps one of two
cores busy at least halves the speed. It costs far more where idle threads spin instead of giving up their core.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from fledge.core.cgroups import ROOT, usable_cores
from fledge.core.formatting import counted

SPINS = "GOMP_SPINCOUNT"
# 20,000 take about 200 microseconds: longer than the gaps between products. OpenMP's default is 300,000.
SPIN_COUNT, BUSY_SPIN_COUNT = "20000", "0"
RUNNING_SAMPLES = 5
WAITING_POLICIES = ("OMP_WAIT_POLICY", SPINS)  # environment variables that libgomp reads when torch is loaded
NOTICED_LOAD = 0.5  # cores
WINDOW_SECONDS, SLOW_WINDOWS = 20.5, 3  # of SlowdownWatch: over a minute
LOAD_SECONDS = 0.25  # the shortest interval in which /proc/stat is precise: it counts in hundredths of a second


def wait_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Make OpenMP threads that wait for others give up their core after 0.2 milliseconds instead of three.

    On a busy machine they give it up at once, which is faster there, and slower on a free one.
    Called before torch is loaded, because OpenMP reads its environment then. What the user has set is kept.
    """
    if "torch" not in sys.modules and not any(name in environment for name in WAITING_POLICIES):
        environment[SPINS] = BUSY_SPIN_COUNT if is_busy() else SPIN_COUNT


def is_busy(root: Path = ROOT) -> bool:
    """Whether other programs use more than a quarter of the cores: a rough estimate that takes a few milliseconds.

    The load average includes programs that have just ended, so those that run at this moment are counted as well.
    """
    limit = max(1, (os.cpu_count() or 1) // 4)
    try:
        if float((root / "proc/loadavg").read_text().split()[0]) < limit / 2:
            return False
        running = []
        for _ in range(RUNNING_SAMPLES):
            running.append(int((root / "proc/stat").read_text().partition("procs_running")[2].split()[0]) - 1)  # itself
            time.sleep(0.004)
    except (OSError, ValueError, IndexError):
        return False
    return statistics.median(running) >= limit


def waiting_policy(environment: Mapping[str, str] = os.environ) -> str:
    """How OpenMP threads wait, for `fledge doctor`: 'GOMP_SPINCOUNT=1000'."""
    return ", ".join(f"{name}={environment[name]}" for name in WAITING_POLICIES if name in environment)


def local_ranks() -> int:
    """How many processes of this training run a launcher has started on this machine."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE") or 1))


def default_threads(of_torch: int) -> int:
    """Threads of this process: OMP_NUM_THREADS, else torch's own choice within the usable cores.

    The ranks on one machine share its cores. torchrun sets OMP_NUM_THREADS to 1 where it is unset, which would leave
    the other cores idle; so for several ranks 1 counts as unset.
    """
    given, ranks = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip(), local_ranks()
    if given.isdecimal() and int(given) > (ranks > 1):
        return int(given)
    return max(1, usable_cores() // ranks if ranks > 1 else min(of_torch, usable_cores()))


def threads_beside(threads: int, load: Callable[[], float | None]) -> int:
    """Threads of a new run while other programs keep `load()` cores busy.

    If another program keeps one of 16 cores busy, 15 threads are faster than 16: one of the 16 would share its core,
    and all would wait for it. A run keeps its number of threads when the others end, so it gives up at most a quarter.
    """
    if threads < 4:
        return threads
    busy = round(load() or 0.0)
    return threads - busy if busy <= threads // 4 else threads


@dataclass(frozen=True)
class CpuTime:
    """Seconds of CPU time up to a moment."""

    clock: float
    all: float  # of all programs, on the cores that this process may use
    own: float  # of this process and its relatives


class LoadMeter:
    """How many cores other programs keep busy. `read()`: since the last reading; None where the system does not say."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.last = cpu_time(root)

    def read(self) -> float | None:
        before, self.last = self.last, cpu_time(self.root)
        if before is None or self.last is None or self.last.clock <= before.clock:
            return None
        others = self.last.all - before.all - max(0.0, self.last.own - before.own)
        return max(0.0, others / (self.last.clock - before.clock))


def other_load(seconds: float = LOAD_SECONDS) -> float | None:
    """How many cores other programs keep busy now, measured for so long: 0.0 to the number of usable cores."""
    meter = LoadMeter()
    time.sleep(seconds)
    return meter.read()


def busy_warning(load: float | None, threads: int, environment: Mapping[str, str] = os.environ) -> str | None:
    """What to say at the start of training beside `load` busy cores; None where the machine is free."""
    if load is None or load < NOTICED_LOAD:
        return None
    text = f"{describe_load(load, usable_cores())}: training takes longer (it uses {counted(threads, 'thread')})"
    if environment.get("OMP_WAIT_POLICY", "").lower() == "active":
        return f"{text}, and far longer because of OMP_WAIT_POLICY=ACTIVE: unset it"
    if not waiting_policy(environment):
        return f"{text}, and far longer because torch was imported before fledge: import fledge first"
    return text


class SlowdownWatch:
    """Notices once in a run that steps have taken over twice as long as usual for more than a minute.

    `add(seconds)` of every step returns what to say: nearly always None. Speeds are compared over windows of
    WINDOW_SECONDS: the last three with the median of those before.
    """

    def __init__(self, meter: LoadMeter) -> None:
        self.meter = meter
        self.steps, self.seconds, self.noticed = 0, 0.0, False  # of the present window
        self.windows: list[float] = []  # seconds of a step in each
        self.loads: list[float] = []  # cores that other programs kept busy in each

    def add(self, seconds: float) -> str | None:
        self.steps, self.seconds = self.steps + 1, self.seconds + seconds
        if self.noticed or self.seconds < WINDOW_SECONDS:
            return None
        self.windows.append(self.seconds / self.steps)
        self.loads.append(self.meter.read() or 0.0)
        self.steps, self.seconds = 0, 0.0
        before, now = self.windows[:-SLOW_WINDOWS], self.windows[-SLOW_WINDOWS:]
        if len(before) < SLOW_WINDOWS or min(now) < 2 * (usual := statistics.median(before)):
            return None
        self.noticed = True
        text = f"training runs at {100 * usual / statistics.mean(now):.0f} % of its usual speed"
        load = statistics.mean(self.loads[-SLOW_WINDOWS:])
        return f"{text}: {describe_load(load, usable_cores())}" if load >= NOTICED_LOAD else text


def cpu_time(root: Path = ROOT) -> CpuTime | None:
    """None without /proc/stat, as on macOS."""
    cores = {f"cpu{n}" for n in os.sched_getaffinity(0)} if hasattr(os, "sched_getaffinity") else set()
    try:
        clock, tick = time.monotonic(), os.sysconf("SC_CLK_TCK")
        rows = [line.split() for line in (root / "proc/stat").read_text().splitlines()]
        # user, nice, system, idle, iowait, irq, softirq, steal: all but idle and iowait
        busy = [sum(map(int, row[1:4] + row[6:9])) for row in rows if row[0] in cores]
        return CpuTime(clock, sum(busy) / tick, _own_ticks(root) / tick) if busy else None
    except (OSError, ValueError):
        return None


def _own_ticks(root: Path) -> int:
    """CPU time of this process, of those it has started, and of the other ranks of its launcher."""
    ticks, children = dict[int, int](), dict[int, list[int]]()
    for file in (root / "proc").glob("[0-9]*/stat"):
        try:
            row = file.read_text().rpartition(")")[2].split()  # the name before it may contain anything
            process, parent = int(file.parent.name), int(row[1])
            ticks[process] = sum(map(int, row[11:15]))  # its own time, and that of the children that have ended
        except (OSError, ValueError, IndexError):  # it has just ended
            continue
        children.setdefault(parent, []).append(process)
    top = os.getppid() if local_ranks() > 1 else os.getpid()
    total, queue = 0, [top]
    while queue:
        process = queue.pop()
        total += ticks.get(process, 0)
        queue += children.get(process, [])
    return total


def describe_load(load: float, cores: int) -> str:
    """'other programs keep 1.0 of 2 cores busy'."""
    return f"other programs keep {min(load, cores):.1f} of {counted(cores, 'core')} busy"
