"""Atomic writes, atomic folders, locks and hashes.

A reader never sees half a file: it is written under a temporary name in the same folder, fsynced, and renamed.
"""

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fledge.core.errors import UserError, nearest

PARTIAL = ".partial-"  # prefix of every unfinished file or folder
LOCK_ATTEMPTS, LOCK_PAUSE = 20, 0.01  # seconds; longer than is_file_locked holds the lock that it tries
REPLACED = ".replaced-"  # prefix of a folder while another one takes its name
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
FSYNC_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # the file system cannot fsync folders


def cache_dir() -> Path:
    """Where datasets and downloads are kept: $FLEDGE_CACHE, else $XDG_CACHE_HOME/fledge, else ~/.cache/fledge."""
    if chosen := os.environ.get("FLEDGE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fledge"


def user_path(name: str) -> Path:
    """A path as typed by the user: expands `~`."""
    if not name or "\0" in name:
        raise UserError(f"{name!r} is not a path", "give the name of a file or folder")
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise UserError(f"'{name}': there is no such user on this machine", "check the path") from None


def nearest_file(path: Path) -> str:
    """A hint with the most similar name in the same folder, or an empty string."""
    names = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    return nearest(str(path), [str(path.parent / name) for name in names if not name.startswith(".")])


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content` atomically; durable when this returns."""
    with errors_with_path(path), new_folders(path.parent):
        _write(path, content)


def _write(path: Path, content: str | bytes) -> None:
    handle, temporary = tempfile.mkstemp(prefix=PARTIAL, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes `path` when the block succeeds, and is removed otherwise.

    `replace`: in place of an existing one, which is kept until the new one is on disk. No system call swaps two names
    on all systems: of a process killed between two renames, `restore_replaced` gives the old one its name back.
    """
    with errors_with_path(path), new_folders(path.parent), _temporary_folder(path, replace) as temporary:
        yield temporary


def restore_replaced(folder: Path) -> None:
    """Finish the replacements below `folder` that were interrupted: remove the old one, or give it its name back."""
    for old in folder.glob(f"{REPLACED}*"):
        path = old.with_name(old.name.removeprefix(REPLACED))
        if _is_there(path):
            remove_path(old)
        else:
            old.rename(path)
            sync_folder(folder)


@contextlib.contextmanager
def errors_with_path(path: Path) -> Iterator[None]:
    """Add the full path to an OSError that has none, or only a file name."""
    try:
        yield
    except OSError as error:
        if "/" not in (name := str(error.filename or "")):
            error.filename = str(path / name)
        raise


def describe_os_error(error: BaseException, path: Path) -> OSError:
    """The OSError that a library has hidden in the text of its own exception."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]) if number else errno.EIO, str(error), str(path))


@contextlib.contextmanager
def _temporary_folder(path: Path, replace: bool) -> Iterator[Path]:
    _remove_orphans(path)
    temporary = Path(tempfile.mkdtemp(prefix=f"{PARTIAL}{path.name}-{os.getpid()}-", dir=path.parent))
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                sync_file(file)
        temporary.chmod(0o777 & ~_umask())
        sync_folder(temporary)
        if replace and _is_there(path):
            path.rename(path.with_name(f"{REPLACED}{path.name}"))
        temporary.rename(path)  # fails if `path` exists and is not empty: nothing is overwritten
        sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        if replace:
            restore_replaced(path.parent)


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def _remove_orphans(path: Path) -> None:
    """Remove unfinished folders of processes that have ended."""
    for leftover in path.parent.glob(f"{PARTIAL}{glob.escape(path.name)}-*"):
        owner = leftover.name.removeprefix(f"{PARTIAL}{path.name}-").partition("-")[0]
        if owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(leftover, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it exists and belongs to another user
    return True


@contextlib.contextmanager
def new_folders(folder: Path) -> Iterator[None]:
    """Create `folder` and its missing parents; remove them again if the block fails."""
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # not empty any more: another process uses it
            for made in missing:
                made.rmdir()
        raise


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def sync_file(path: Path) -> None:
    with errors_with_path(path), path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """fsync the folder: until then a rename in it may be lost."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with errors_with_path(path):
            os.fsync(handle)
    except OSError as error:
        if error.errno not in FSYNC_UNSUPPORTED:
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def file_lock(path: Path, busy: UserError) -> Iterator[None]:
    """Hold an exclusive lock on `path` in the block. The kernel releases it when the process ends, in any way."""
    with path.open("a") as file:
        for attempt in range(LOCK_ATTEMPTS):
            time.sleep(LOCK_PAUSE if attempt else 0)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
        else:
            raise busy
        if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino:
            raise busy  # the previous owner has just removed the file
        yield


def is_file_locked(path: Path) -> bool:
    """Whether a process holds the lock on `path`."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def remove_path(path: Path) -> None:
    """Remove a folder with its contents, a file or a symbolic link; nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_partials(folder: Path) -> None:
    """Remove unfinished files that a killed process has left."""
    for leftover in folder.glob(f"{PARTIAL}*"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def folder_bytes(folder: Path) -> int:
    """What the files in a folder hold together; another process may be removing some."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() and not path.is_symlink() else 0
    return total


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object. Anything else is a `UserError` that names `what` and the path."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{what} is missing: '{path}'", "check the path") from None
    except (ValueError, RecursionError) as error:  # RecursionError: nested too deeply
        raise UserError(
            f"{what} is damaged: '{path}' ({error})", "restore it from a copy, or create it again"
        ) from None
    if not isinstance(value, dict):
        raise UserError(f"{what} is damaged: '{path}' is not a JSON object", "restore it, or create it again")
    return value


def to_json(value: Any, indent: int | None = None) -> str:
    """Standard JSON: NaN and infinity become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(held) for held in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def human_bytes(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < (1000 if unit == "B" else 999.95):
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
