"""Functions for workers in test_executors.py: in a module of their own, so that other processes can import them.

Each action creates a file in a folder, so that the number of calls can be counted.
"""

import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from fledge.core.errors import UserError


def mark(folder: Path, item: int) -> None:
    (folder / f"{item}-{uuid.uuid4().hex}").touch()


def marks(folder: Path) -> Counter[int]:
    return Counter(int(path.name.partition("-")[0]) for path in folder.iterdir())


def arrived(folder: Path) -> Path:
    """A folder with a file for each result that has come."""
    found = folder.with_name(f"{folder.name}-arrived")
    found.mkdir(exist_ok=True)
    return found


def noted(folder: Path, results: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The same, while each that comes is noted for `square_or_die`."""
    for item, result in results:
        (arrived(folder) / str(item)).touch()
        yield item, result


def square(folder: Path, item: int) -> int:
    mark(folder, item)
    return item * item


def square_or_die(folder: Path, victim: int, others: int, times: int, item: int) -> int:
    """The item `victim` kills its worker the first `times` times, after the results of `others` others have arrived."""
    mark(folder, item)
    if item == victim and marks(folder)[victim] <= times:
        while len(list(arrived(folder).iterdir())) < others:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


def refuse(item: int) -> None:
    raise UserError(f"{item} is odd", "take an even one")


def fill_the_disk(item: int) -> None:
    raise OSError(28, "No space left on device", f"/somewhere/{item}")


def stumble(item: int) -> None:
    raise KeyError(item)


def world(folder: Path, item: int) -> int:
    """The number of calls that run at the same time."""
    own = folder / str(item)
    own.touch()
    time.sleep(0.05)
    found = len(list(folder.iterdir()))
    own.unlink()
    return found


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hears(number: int) -> bool:
    return number not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
