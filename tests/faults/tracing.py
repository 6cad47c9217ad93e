"""strace, put to a process that waits for it: lists its system calls, or makes one of them fail.

calls      every call that changes something below a folder, in order
strike     a call, and what becomes of it: the process is killed at it, or the system refuses it
"""

import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from fork_server import Child

OPENING = ("open", "openat", "creat")
WRITING = ("write", "pwrite64", "writev", "pwritev", "pwritev2", "copy_file_range", "sendfile")
FLUSHING = ("fsync", "fdatasync", "sync_file_range")
MAKING = ("mkdir", "mkdirat", "link", "linkat", "symlink", "symlinkat", "rename", "renameat", "renameat2")
REMOVING = ("unlink", "unlinkat", "rmdir", "truncate", "ftruncate", "fallocate")
MARKING = ("chmod", "fchmod", "fchmodat", "fchmodat2", "utimensat")
MUTATING = (*OPENING, *WRITING, *FLUSHING, *MAKING, *REMOVING, *MARKING)
TRACED = ",".join(f"?{name}" for name in MUTATING)  # each machine knows only some of them
CALL = re.compile(r"(?P<thread>\d+) +(?P<name>\w+)\((?P<rest>.*)")
OPENED_TO_WRITE = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC")
PATHS = re.compile(r"[<\"]([^<>\"]+)[>\"]")
PATIENCE = 60


@dataclass(frozen=True)
class Call:
    """The number-th call of this name that a thread makes, counted as strace counts."""

    name: str
    number: int
    words: str  # what it was called with: paths, mostly

    @property
    def file(self) -> str:
        """The last name that stands in its words; those of unfinished files are all one."""
        return Path(PATHS.findall(self.words)[-1]).name.partition("-")[0]


def why_not() -> str:
    """Why nothing can be traced here, or nothing."""
    if not shutil.which("strace"):
        return "strace is not installed"
    done = subprocess.run(["strace", "-f", "-e", "trace=none", "true"], capture_output=True, text=True)
    return "" if done.returncode == 0 else f"this machine lets nobody trace: {done.stderr.strip()[:80]}"


needs_strace = pytest.mark.skipif(bool(why_not()), reason=why_not() or "strace works")


@contextmanager
def traced(child: Child, log: Path, *more: str) -> Iterator[None]:
    """The block begins when strace has hold of all threads of a held child; afterwards its log is complete."""
    child.wait_until_held()
    words = ["strace", "-f", "-y", "-s", "0", "-e", "signal=none", "-e", f"trace={TRACED}", "-o", str(log), *more]
    process = subprocess.Popen([*words, "-p", str(child.pid)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + PATIENCE
    while not is_traced(child.pid):
        if process.poll() is not None or time.monotonic() > until:
            raise AssertionError("strace could not take hold of the process")
        time.sleep(0.001)
    yield
    process.wait(PATIENCE)


def is_traced(pid: int) -> bool:
    states = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    return bool(states) and all("TracerPid:\t0\n" not in state for state in states)


def calls(log: Path, folder: Path) -> list[Call]:
    """Those that change something below `folder`, in order."""
    counts: Counter[tuple[str, str]] = Counter()
    found = []
    for line in log.read_text().splitlines():
        if not (match := CALL.match(line)):
            continue
        thread, name, rest = match["thread"], match["name"], match["rest"]
        counts[thread, name] += 1
        harmless = " = -1 E" in rest or (name in ("open", "openat") and not OPENED_TO_WRITE.search(rest))
        if str(folder) in rest and not harmless:
            found.append(Call(name, counts[thread, name], rest))
    return found


def kill_at(call: Call) -> tuple[str, ...]:
    return ("-e", f"inject={call.name}:signal=KILL:when={call.number}")


def refuse(call: Call, error: str) -> tuple[str, ...]:
    return ("-e", f"inject={call.name}:error={error}:when={call.number}")
