"""How verbs talk: words for people on stderr, the one thing that was asked for on stdout."""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, TypeVar

from fledge.base.files import to_json

T = TypeVar("T")


def say(text: str) -> None:
    """Something a person should know on the way. Nothing depends on anybody listening."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def counted(count: int, one: str, many: str = "") -> str:
    """1 file · 2 files · 3 geese"""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def report(value: Any, *, as_json: bool, text: str) -> None:
    """The result: one JSON document, or words."""
    print(to_json(value, indent=1) if as_json else text, flush=True)


def progress(items: Iterable[T], label: str) -> Iterator[T]:
    """The same items, with a bar on stderr when it is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    total = len(items) if isinstance(items, Sized) else None
    return iter(track(items, label, total=total, console=console, transient=True, disable=not console.is_terminal))


@contextlib.contextmanager
def meter(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr that counts bytes, when it is a terminal; gives what is to be told of each step."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn(label), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total or None)
        yield lambda count: bar.advance(task, count)
