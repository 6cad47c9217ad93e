"""What workers are given to do in test_engines.py: in a file of its own, so that other processes can import it.

Each deed leaves a mark in a folder, so that it can be told how often it was done.
"""

import os
import signal
import time
import uuid
from collections import Counter
from pathlib import Path

from fledge.core.errors import UserError


def mark(folder: Path, item: int) -> None:
    (folder / f"{item}-{uuid.uuid4().hex}").touch()


def marks(folder: Path) -> Counter[int]:
    return Counter(int(path.name.partition("-")[0]) for path in folder.iterdir())


def square(folder: Path, item: int) -> int:
    mark(folder, item)
    return item * item


def square_or_die(folder: Path, victim: int, others: int, times: int, item: int) -> int:
    """The victim is killed at its work so many times, when the others have done theirs."""
    mark(folder, item)
    if item == victim and marks(folder)[victim] <= times:
        while len(marks(folder)) <= others:
            time.sleep(0.01)
        time.sleep(0.3)  # their results are on the way
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


def refuse(item: int) -> None:
    raise UserError(f"{item} is odd", "take an even one")


def fill_the_disk(item: int) -> None:
    raise OSError(28, "No space left on device", f"/somewhere/{item}")


def stumble(item: int) -> None:
    raise KeyError(item)


def world(folder: Path, item: int) -> int:
    """How many are at work at the same time."""
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
