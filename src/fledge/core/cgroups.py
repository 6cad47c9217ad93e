"""Memory limits, CPU quotas and usable cores of a container, job or service: Linux control groups, v2 and v1.

Groups are nested, and the tightest limit holds. On other systems, and without a limit, the list is empty.
"""

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def usable_cores(root: Path = ROOT) -> int:
    """CPU cores that this process may use; in a container fewer than the machine has.

    A quota of 1.5 cores counts as two: two threads then use 1.5 cores, one would use 1.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *map(math.ceil, cpu_quotas(root))]))


@dataclass(frozen=True)
class Limit:
    total: int
    used: int  # without what the kernel can reclaim at once, such as cached files


@dataclass(frozen=True)
class Version:
    """A version of cgroups: its folder and the names of its files."""

    folder: str
    total: str
    used: str
    reclaimable: str  # key in memory.stat


VERSIONS = {  # by controller in /proc/self/cgroup
    "": Version("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": Version("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
QUOTAS = {  # controller → folder, files that hold microseconds of CPU time and of the period that they are for
    "": ("sys/fs/cgroup", ("cpu.max",)),
    "cpu": ("sys/fs/cgroup/cpu", ("cpu.cfs_quota_us", "cpu.cfs_period_us")),
}


def limits(root: Path = ROOT) -> list[Limit]:
    """The limits of this process, from its own group to the outermost visible one."""
    return [limit for controller, group in _groups(root) if controller in VERSIONS
            for folder in _ancestors(root / VERSIONS[controller].folder, group)
            for limit in _read_limit(folder, VERSIONS[controller])]  # fmt: skip


def cpu_quotas(root: Path = ROOT) -> list[float]:
    """The CPU quotas of this process in cores, such as 1.5 (`docker run --cpus 1.5`), from its own group outwards."""
    return [quota for controller, group in _groups(root) if controller in QUOTAS
            for folder in _ancestors(root / QUOTAS[controller][0], group)
            for quota in _read_quota(folder, QUOTAS[controller][1])]  # fmt: skip


def _groups(root: Path) -> Iterator[tuple[str, str]]:
    """Controller and group: '0::/service' is a v2 group (no controller), '7:cpu,memory:/service' two v1 groups."""
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            yield from ((name, group) for name in controllers.split(","))


def _ancestors(top: Path, group: str) -> Iterator[Path]:
    """From the group up to the top. Inside a container the outer names may not exist."""
    inner = PurePosixPath(group.strip("/"))
    yield from (top / part for part in (inner, *inner.parents) if ".." not in part.parts)


def _read_limit(folder: Path, version: Version) -> Iterator[Limit]:
    with contextlib.suppress(OSError, ValueError):  # "max" is not a number: no limit
        total, used = (int((folder / name).read_text()) for name in (version.total, version.used))
        rows = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        yield Limit(total, max(0, used - int(rows.get(version.reclaimable, 0))))


def _read_quota(folder: Path, files: tuple[str, ...]) -> Iterator[float]:
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # "max" is not a number: no quota
        time, period = map(int, " ".join((folder / name).read_text() for name in files).split())
        if time > 0:  # -1: no quota
            yield time / period
