"""Progress bars on stderr, where that is a terminal and rich is installed; elsewhere nothing is shown."""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, TypeVar

T = TypeVar("T")


def progress(items: Iterable[T], label: str) -> Iterator[T]:
    """The same items, with a bar."""
    if (console := _terminal()) is None:
        yield from items
        return
    from rich.progress import track

    total = len(items) if isinstance(items, Sized) else None
    yield from track(items, label, total=total, console=console, transient=True)


@contextlib.contextmanager
def byte_progress(label: str, total: int | None, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A bar that counts bytes; gives the function to call after each piece of work, with its size."""
    if (console := _terminal()) is None:
        yield lambda _: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(label, total=total or None, completed=done)
        yield lambda size: bar.advance(task, size)


def _terminal() -> Any:
    """rich's console on stderr, or None."""
    try:
        from rich.console import Console
    except ImportError:
        return None
    console = Console(stderr=True)
    return console if console.is_terminal else None


def notice(text: str) -> None:
    """One line for the user, on stderr. A closed stderr is no error."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
