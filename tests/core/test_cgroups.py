"""What a container may take: both kinds of control groups, as files in a folder that stands for the root."""

import os
from pathlib import Path

import pytest

from fledge.core import device
from fledge.core.cgroups import Limit, cpu_quotas, limits, usable_cores
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


def quota(root: Path, line: str, folder: str, files: dict[str, str]) -> None:
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/cgroup").write_text(line + "\n")
    here = root / "sys/fs/cgroup" / folder
    here.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (here / name).write_text(text + "\n")


@pytest.mark.parametrize(("given", "cores"), [("150000 100000", 2), ("10000 100000", 1), ("max 100000", 8), ("0 0", 8)])
def test_quota_limits_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, cores: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    quota(tmp_path, "0::/a/b", "a/b", {"cpu.max": given})
    assert usable_cores(tmp_path) == cores


def test_tightest_quota_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    quota(tmp_path, "0::/a/b", "a/b", {"cpu.max": "400000 100000"})
    quota(tmp_path, "0::/a/b", "a", {"cpu.max": "300000 100000"})
    assert cpu_quotas(tmp_path) == [4.0, 3.0]
    assert usable_cores(tmp_path) == 3


@pytest.mark.parametrize(("given", "cores"), [("250000", 3), ("-1", 8)])
def test_quota_of_the_first_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, cores: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    files = {"cpu.cfs_quota_us": given, "cpu.cfs_period_us": "100000"}
    quota(tmp_path, "4:cpu,cpuacct:/a", "cpu/a", files)
    assert usable_cores(tmp_path) == cores
