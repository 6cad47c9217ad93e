"""What a sink is, and the files of a run that sinks write.

Sinks are loggers: CSV, JSONL, samples, the terminal, TensorBoard, W&B, trackio. Each gets every event and picks what
it shows.
"""

import contextlib
import hashlib
import importlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from fledge.core.errors import UserError, to_user_error
from fledge.core.files import errors_with_path, write_atomic
from fledge.tracking.events import Event


class Sink(Protocol):
    """A logger. A `UserError` that it raises ends the training run; after any other exception it is switched off."""

    def record(self, event: Event) -> None: ...

    def close(self) -> None: ...


class RunFile:
    """A growing file of the run folder. When a method returns, the operating system has the text.

    A run can only be resumed if these files are exact, so a failed write is a `UserError` that names the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._errors():
            path.touch()
            self._open()

    def append(self, text: str) -> None:
        with self._errors():
            self._file.seek(0, os.SEEK_END)
            self._file.write(text.encode())
            self._file.flush()

    def overwrite(self, start: int, text: str) -> None:
        """Replace everything from byte `start` on."""
        with self._errors():
            old_end = self._file.seek(0, os.SEEK_END)
            self._file.seek(start)
            self._file.write(text.encode())
            self._file.flush()
            if self._file.tell() < old_end:
                self._file.truncate()

    def replace(self, text: str) -> None:
        """Replace the whole file atomically: a reader sees the old content or the new."""
        with self._errors():
            write_atomic(self._path, text)
            self._file.close()
            self._open()

    def close(self) -> None:
        with self._errors():
            self._file.close()

    def _open(self) -> None:
        self._file = self._path.open("r+b")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with errors_with_path(self._path):
                yield
        except OSError as error:
            raise to_user_error(error) from error


def complete_lines(path: Path) -> list[str]:
    """The lines of a file that may be growing, without their newlines; an unfinished last line is left out.

    Lines end at "\\n" only, whatever other separators a generated sample contains.
    """
    content = path.read_bytes() if path.stat().st_size else b""  # a device such as /dev/full has no size, and no end
    return content.decode("utf-8", "replace").split("\n")[:-1]


def join_lines(lines: Iterable[str]) -> str:
    return "".join(line + "\n" for line in lines)


def require(package: str) -> Any:
    """Import an optional package, or say how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(f"the logger '{package}' needs a package", f"pip install 'fledge[{package}]'") from None


def run_id(folder: Path) -> str:
    """The same when a run is resumed; different for runs of the same name in different folders."""
    return f"{folder.name}-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]}"
