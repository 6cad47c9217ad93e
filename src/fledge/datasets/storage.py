"""Where a dataset is written: a local folder, or a URL that fsspec opens. Only whole files appear in either.

A file is written in a temporary folder and committed when it is complete: renamed, or uploaded.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from fledge.core.files import PARTIAL, sync_file, sync_folder, user_path, write_atomic
from fledge.core.files import sha256 as hash_of
from fledge.text.inputs import is_url, storage_errors

STAGING = ".parts"  # files that are needed until the dataset is complete


class Storage(Protocol):
    def read(self, name: str) -> bytes | None:
        """The content of a file; None if it does not exist."""

    def write(self, name: str, content: bytes) -> None: ...

    def temporary_folder(self) -> contextlib.AbstractContextManager[Path]:
        """A local folder for files that are being written; removed at the end of the block."""

    def commit(self, file: Path, name: str) -> None:
        """Move a complete file into the storage."""

    def local_copy(self, name: str, folder: Path, /) -> Path:
        """A local file with the content of `name`, in `folder` where it has to be downloaded."""

    def has_file(self, name: str, sha256: str, /) -> bool:
        """Whether the file exists, undamaged."""

    def fsync_files(self, names: Iterable[str]) -> None:
        """Make sure that these files survive a power failure."""

    def names(self) -> set[str]:
        """All files except those in STAGING."""

    def staged_names(self) -> set[str]:
        """The files in STAGING."""

    def remove(self, name: str) -> None: ...

    def clear_staging(self) -> None:
        """Remove STAGING."""


class LocalStorage:
    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, content: bytes) -> None:
        write_atomic(self.path / name, content)

    @contextlib.contextmanager
    def temporary_folder(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=self.path / STAGING) as folder:
            yield Path(folder)

    def commit(self, file: Path, name: str) -> None:
        target = self.path / name
        target.parent.mkdir(exist_ok=True)
        file.replace(target)

    def local_copy(self, name: str, _: Path, /) -> Path:
        return self.path / name

    def has_file(self, name: str, sha256: str, /) -> bool:
        return (self.path / name).is_file() and hash_of(self.path / name) == sha256

    def fsync_files(self, names: Iterable[str]) -> None:
        for name in names:
            sync_file(self.path / name)
        for folder in {(self.path / name).parent for name in names}:
            sync_folder(folder)

    def names(self) -> set[str]:
        found = {p.relative_to(self.path) for p in self.path.rglob("*") if p.is_file()}
        return {p.as_posix() for p in found if p.parts[0] != STAGING}

    def staged_names(self) -> set[str]:
        return {f"{STAGING}/{p.name}" for p in (self.path / STAGING).iterdir()}

    def remove(self, name: str) -> None:
        file = self.path / name
        file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the folder too, if it is empty now
            file.parent.rmdir()

    def clear_staging(self) -> None:
        shutil.rmtree(self.path / STAGING, ignore_errors=True)


class RemoteStorage:
    """An object store. It has no partial files: a file appears when its upload is complete."""

    def __init__(self, url: str) -> None:
        import fsspec

        with storage_errors(url):
            self.system, self.root = fsspec.core.url_to_fs(url.rstrip("/"))
        self.url = url

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def read(self, name: str) -> bytes | None:
        with storage_errors(self.url):
            try:
                content: bytes = self.system.cat_file(self._path(name))
            except FileNotFoundError:
                return None
            return content

    def download(self, name: str, to: Path) -> bool:
        """Download a file; False if it does not exist."""
        with storage_errors(self.url):
            try:
                self.system.get_file(self._path(name), str(to))
            except FileNotFoundError:
                return False
        return True

    def write(self, name: str, content: bytes) -> None:
        with storage_errors(self.url, "write to"):
            self.system.pipe_file(self._path(name), content)

    @contextlib.contextmanager
    def temporary_folder(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="fledge-") as folder:
            yield Path(folder)

    def commit(self, file: Path, name: str) -> None:
        with storage_errors(self.url, "write to"):
            self.system.put_file(str(file), self._path(name))
        file.unlink()

    def local_copy(self, name: str, folder: Path, /) -> Path:
        path = folder / Path(name).name
        self.download(name, path)
        return path

    def has_file(self, name: str, _: str, /) -> bool:
        """Whether the file exists; the object store guards its content."""
        with storage_errors(self.url):
            return bool(self.system.exists(self._path(name)))

    def fsync_files(self, names: Iterable[str]) -> None: ...

    def names(self) -> set[str]:
        return {name for name in self._names_below(self.root) if not name.startswith(f"{STAGING}/")}

    def staged_names(self) -> set[str]:
        return self._names_below(self._path(STAGING))

    def _names_below(self, folder: str) -> set[str]:
        with storage_errors(self.url):
            self.system.invalidate_cache()
            found: list[Any] = self.system.find(folder)
        return {str(path)[len(self.root) :].lstrip("/") for path in found}

    def remove(self, name: str) -> None:
        with storage_errors(self.url, "write to"), contextlib.suppress(FileNotFoundError):
            self.system.rm_file(self._path(name))

    def clear_staging(self) -> None:
        with storage_errors(self.url, "write to"), contextlib.suppress(FileNotFoundError):
            self.system.rm(self._path(STAGING), recursive=True)


def open_storage(out: str) -> Storage:
    return RemoteStorage(out) if is_url(out) else LocalStorage(user_path(out))
