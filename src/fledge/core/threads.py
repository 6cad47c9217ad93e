"""Cores, threads and the load of other programs. Imports no torch.

    wait_briefly()           before torch is loaded: how its idle threads wait
    default_threads(...)     how many threads compute
    LoadMeter, other_load    how many cores other programs keep busy

A matrix product is split evenly over the threads, and all wait for the slowest. So one busy program on one of two cores
halves the speed at least, and far more where threads that wait keep a core busy instead of leaving it to the others.
"""

import os
import sys
import time
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

from fledge.core.cgroups import ROOT, usable_cores

SPINS = "GOMP_SPINCOUNT"
SPIN_COUNT = "1000"  # about ten microseconds; the default is 300,000
WAITING_POLICIES = ("OMP_WAIT_POLICY", SPINS)  # environment variables that libgomp reads when torch is loaded
LOAD_SECONDS = 0.25  # the shortest interval in which /proc/stat is precise: it counts in hundredths of a second


def wait_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let OpenMP threads that wait for others give up their core after some microseconds, not milliseconds.

    Called before torch is loaded, because OpenMP reads its environment then. What the user has set stays.
    """
    if "torch" not in sys.modules and not any(name in environment for name in WAITING_POLICIES):
        environment[SPINS] = SPIN_COUNT


def waiting_policy(environment: MutableMapping[str, str] = os.environ) -> str:
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
    return f"other programs keep {load:.1f} of {cores} {'core' if cores == 1 else 'cores'} busy"
