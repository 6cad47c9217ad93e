"""Progress bars and notices on stderr. Without rich, or where stderr is not a terminal, bars are not shown."""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from importlib.util import find_spec
from typing import Any, TextIO, TypeVar

T = TypeVar("T")


def progress(items: Iterable[T], label: str) -> Iterator[T]:
    """Yield the items and show a progress bar."""
    if (console := terminal_console()) is None:
        yield from items
        return
    from rich.progress import track

    total = len(items) if isinstance(items, Sized) else None
    yield from track(items, label, total=total, console=console, transient=True, show_speed=False)


@contextlib.contextmanager
def byte_progress(label: str, total: int | None, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show a progress bar in bytes. Yields the function to call with the size of each finished piece."""
    if (console := terminal_console()) is None:
        yield lambda _: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(label, total=total or None, completed=done)
        yield lambda size: bar.advance(task, size)


def terminal_console(stream: TextIO | None = None) -> Any:
    """A rich console on `stream` (stderr if None); None where it cannot redraw: neither a terminal nor a notebook."""
    try:
        from rich.console import Console
    except ImportError:
        return None
    console = Console(file=stream or sys.stderr)
    in_notebook = console.is_jupyter and find_spec("ipywidgets")
    return console if console.is_terminal or in_notebook else None


def notice(text: str) -> None:
    """Print a line for the user on stderr. A closed stderr is not an error."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)  # noqa: T201
