"""Memory limits and usable cores of a container, job or service: Linux control groups, v2 and v1.

Groups are nested, and the tightest limit holds. On other systems, and without a limit, the list is empty.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def usable_cores() -> int:
    """CPU cores that this process may use; in a container fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def limits(root: Path = ROOT) -> list[Limit]:
    """The limits of this process, from its own group to the outermost visible one."""
    return [limit for version, group in _groups(root) for folder in _ancestors(root / version.folder, group)
            for limit in _read_limit(folder, version)]  # fmt: skip


def _groups(root: Path) -> Iterator[tuple[Version, str]]:
    """'0::/service' is a v2 group, '7:cpu,memory:/service' a v1 group."""
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            for name in controllers.split(","):
                if name in VERSIONS:
                    yield VERSIONS[name], group


def _ancestors(top: Path, group: str) -> Iterator[Path]:
    """From the group up to the top. Inside a container the outer names may not exist."""
    inner = PurePosixPath(group.strip("/"))
    yield from (top / part for part in (inner, *inner.parents) if ".." not in part.parts)


def _read_limit(folder: Path, version: Version) -> Iterator[Limit]:
    with contextlib.suppress(OSError, ValueError):  # "max" is not a number: no limit
        total, used = (int((folder / name).read_text()) for name in (version.total, version.used))
        rows = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        yield Limit(total, max(0, used - int(rows.get(version.reclaimable, 0))))
