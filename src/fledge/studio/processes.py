"""Which process trains a run, and how it is stopped without ever hitting another one.

A process id may be taken by another process as soon as the first has ended. So a process is named by its id and the
moment it began; it is held by a pidfd, checked once more, and only then gets the signal.
"""

import os
import signal
from pathlib import Path

from fledge.core.errors import UserError

PROC = Path("/proc")


def birth_of(pid: int) -> str | None:
    """When a process began, in ticks since the machine was started; None: it has ended, or this is not Linux."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"  # a zombie has ended


def lock_holder(path: Path) -> int | None:
    """The process that holds the lock on a file; None: nobody, or not known."""
    try:
        wanted, locks = path.stat(), (PROC / "locks").read_text().splitlines()
    except OSError:
        return None
    for line in locks:  # 1: FLOCK  ADVISORY  WRITE 4711 08:01:123456 0 EOF
        kind, _, mode, pid, file = [*line.split()[1:6], *[""] * 5][:5]
        same_inode = kind == "FLOCK" and mode == "WRITE" and file.rpartition(":")[2] == str(wanted.st_ino)
        if same_inode and pid.isdigit() and has_open(int(pid), wanted):
            return int(pid)
    return None


def has_open(pid: int, wanted: os.stat_result) -> bool:
    """Whether a process has opened this file. Device numbers in /proc/locks differ from those of stat on some disks."""
    try:
        for handle in (PROC / str(pid) / "fd").iterdir():
            try:
                found = handle.stat()
            except OSError:
                continue
            if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                return True
    except OSError:
        pass  # it has ended, or belongs to another user
    return False


def stop_lock_holder(lock: Path, name: str) -> None:
    """SIGTERM to the process that trains a run: it saves a checkpoint and ends."""
    unknown = UserError(
        f"which process trains '{name}' is not known here", "stop it where it was started: Ctrl-C in its terminal"
    )
    if (pid := lock_holder(lock)) is None or not hasattr(os, "pidfd_open"):
        raise unknown
    try:
        process = os.pidfd_open(pid)
    except OSError:
        raise unknown from None
    try:
        if lock_holder(lock) != pid:
            raise unknown
        send(process, name)
    finally:
        os.close(process)


def stop_process(pid: int, birth: str | None, name: str) -> None:
    """SIGTERM to a process that began at `birth`."""
    ended = UserError(f"the process of '{name}' has ended", "look at its last lines on this page")
    if birth is None or not hasattr(os, "pidfd_open"):
        raise UserError(f"the process of '{name}' cannot be identified", f"stop it in a terminal: kill {pid}")
    try:
        process = os.pidfd_open(pid)
    except OSError:
        raise ended from None
    try:
        if birth_of(pid) != birth:
            raise ended
        send(process, name)
    finally:
        os.close(process)


def send(process: int, name: str) -> None:
    try:
        signal.pidfd_send_signal(process, signal.SIGTERM)
    except PermissionError:
        raise UserError(f"'{name}' is trained by another user", "ask that user to stop it") from None
    except ProcessLookupError:
        raise UserError(f"the process of '{name}' has ended", "load the page again") from None
