"""Where a dataset is written: a folder, or a URL that fsspec opens. Both take whole files only.

A file is made in a staging folder of this machine and moved in when it is ready: by renaming, or by sending it.
Knows names and bytes; does not know what a dataset is.
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

STAGING = ".parts"  # what is needed until the dataset is whole


class Storage(Protocol):
    def read(self, name: str) -> bytes | None:
        """None where there is no such file."""

    def write(self, name: str, content: bytes) -> None: ...

    def staging(self) -> contextlib.AbstractContextManager[Path]:
        """A folder for files that are being made; what is left in it is thrown away."""

    def adopt(self, file: Path, name: str) -> None:
        """Moves a finished file in."""

    def holds(self, name: str, sha256: str, /) -> bool:
        """Whether this file is here and whole."""

    def settle(self, names: Iterable[str]) -> None:
        """When this returns, no power cut takes these files away."""

    def names(self) -> set[str]:
        """All files that are here, those in WORK aside."""

    def work(self) -> set[str]:
        """And those in WORK."""

    def remove(self, name: str) -> None: ...

    def forget_work(self) -> None:
        """The dataset is whole: WORK goes."""


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
    def staging(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=self.path / STAGING) as folder:
            yield Path(folder)

    def adopt(self, file: Path, name: str) -> None:
        target = self.path / name
        target.parent.mkdir(exist_ok=True)
        file.replace(target)

    def holds(self, name: str, sha256: str, /) -> bool:
        return (self.path / name).is_file() and hash_of(self.path / name) == sha256

    def settle(self, names: Iterable[str]) -> None:
        for name in names:
            sync_file(self.path / name)
        for folder in {(self.path / name).parent for name in names}:
            sync_folder(folder)

    def names(self) -> set[str]:
        found = {p.relative_to(self.path) for p in self.path.rglob("*") if p.is_file()}
        return {p.as_posix() for p in found if p.parts[0] != STAGING}

    def work(self) -> set[str]:
        return {f"{STAGING}/{p.name}" for p in (self.path / STAGING).iterdir()}

    def remove(self, name: str) -> None:
        file = self.path / name
        file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # its folder goes too, if nothing else is in it
            file.parent.rmdir()

    def forget_work(self) -> None:
        shutil.rmtree(self.path / STAGING, ignore_errors=True)


class RemoteStorage:
    """An object store has no half-written files: each appears when it was sent whole."""

    def __init__(self, url: str) -> None:
        import fsspec

        with storage_errors(url):
            self.system, self.root = fsspec.core.url_to_fs(url.rstrip("/"))
        self.url = url

    def _at(self, name: str) -> str:
        return f"{self.root}/{name}"

    def read(self, name: str) -> bytes | None:
        with storage_errors(self.url):
            try:
                content: bytes = self.system.cat_file(self._at(name))
            except FileNotFoundError:
                return None
            return content

    def fetch(self, name: str, to: Path) -> bool:
        """Whether there was such a file."""
        with storage_errors(self.url):
            try:
                self.system.get_file(self._at(name), str(to))
            except FileNotFoundError:
                return False
        return True

    def write(self, name: str, content: bytes) -> None:
        with storage_errors(self.url, "write to"):
            self.system.pipe_file(self._at(name), content)

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="fledge-") as folder:
            yield Path(folder)

    def adopt(self, file: Path, name: str) -> None:
        with storage_errors(self.url, "write to"):
            self.system.put_file(str(file), self._at(name))
        file.unlink()

    def holds(self, name: str, _: str, /) -> bool:
        """An object store keeps what it has taken."""
        with storage_errors(self.url):
            return bool(self.system.exists(self._at(name)))

    def settle(self, names: Iterable[str]) -> None: ...

    def names(self) -> set[str]:
        return {name for name in self._below(self.root) if not name.startswith(f"{STAGING}/")}

    def work(self) -> set[str]:
        return self._below(self._at(STAGING))

    def _below(self, folder: str) -> set[str]:
        with storage_errors(self.url):
            self.system.invalidate_cache()
            found: list[Any] = self.system.find(folder)
        return {str(path)[len(self.root) :].lstrip("/") for path in found}

    def remove(self, name: str) -> None:
        with storage_errors(self.url, "write to"), contextlib.suppress(FileNotFoundError):
            self.system.rm_file(self._at(name))

    def forget_work(self) -> None:
        with storage_errors(self.url, "write to"), contextlib.suppress(FileNotFoundError):
            self.system.rm(self._at(STAGING), recursive=True)


def open_storage(out: str) -> Storage:
    return RemoteStorage(out) if is_url(out) else LocalStorage(user_path(out))
