"""What a container may take: both kinds of control groups, as files in a folder that stands for the root."""

from pathlib import Path

import pytest

from fledge.core import device
from fledge.core.cgroups import Limit, limits
from fledge.core.device import free_memory, total_memory

SECOND = ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file 30")
FIRST = ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file 30")
GROUPS = {SECOND: "0::/a/b", FIRST: "1:name=systemd:/x\n7:cpu,memory:/a/b"}


def group(root: Path, kind: tuple[str, ...], folder: str, total: str, used: str, stat: str | None = None) -> None:
    top, limit, usage, reclaimable = kind
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/cgroup").write_text(GROUPS[kind] + "\n")
    here = root / top / folder
    here.mkdir(parents=True, exist_ok=True)
    (here / limit).write_text(f"{total}\n")
    (here / usage).write_text(f"{used}\n")
    (here / "memory.stat").write_text(f"anon 7\n{reclaimable if stat is None else stat}\n")


@pytest.mark.parametrize("kind", GROUPS, ids=["second", "first"])
def test_limits_of_all_groups_are_read(tmp_path: Path, kind: tuple[str, ...]) -> None:
    group(tmp_path, kind, "a/b", "1000", "100")
    group(tmp_path, kind, "a", "500", "400", stat="file 1")
    group(tmp_path, kind, "elsewhere", "1", "1")
    assert limits(tmp_path) == [Limit(1000, 70), Limit(500, 400)]


@pytest.mark.parametrize("kind", GROUPS, ids=["second", "first"])
def test_container_without_outer_groups(tmp_path: Path, kind: tuple[str, ...]) -> None:
    group(tmp_path, kind, "", "1000", "10")
    assert limits(tmp_path) == [Limit(1000, 0)]


def test_max_is_no_limit(tmp_path: Path) -> None:
    assert limits(tmp_path) == []
    group(tmp_path, SECOND, "a/b", "max", "100")
    assert limits(tmp_path) == []


@pytest.mark.parametrize("line", ["0::/../../etc", "0::/a/b", ""])
def test_unreadable_groups_are_ignored(tmp_path: Path, line: str) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(line)
    assert limits(tmp_path) == []


def test_tightest_limit_is_the_total_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "limits", lambda: [Limit(10_000, 9_000), Limit(4_000, 2_500), Limit(1 << 60, 0)])
    assert (total_memory("cpu"), free_memory("cpu")) == (4_000, 1_000)
    monkeypatch.setattr(device, "limits", lambda: [Limit(4_000, 5_000)])
    assert free_memory("cpu") == 0
