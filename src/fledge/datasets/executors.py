"""Who does the work: this process, several on this machine, or a Ray cluster. All do the same, part by part.

An engine takes a function and what it is to be called with, and gives back pairs as they are done, in any order.
The function is pure and its results are on disk, so whatever dies, only what was being made is made again.
"""

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from fledge.core.errors import UserError
from fledge.core.signals import exit_with_parent, sigint_blocked

Work = Callable[[Any], Any]
Executor = Callable[[Work, Sequence[Any]], Iterator[tuple[Any, Any]]]

MIN_PARALLEL_BYTES = 64 << 20  # bytes of text: less is done sooner than processes are started
ATTEMPTS = 3  # before a worker that dies is nobody's accident


def in_process(work: Work, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    for item in items:
        yield item, work(item)


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_count(asked: int | None, size: int) -> int:
    """As many as asked for; else one a core, and only one for a text of little `size`."""
    return asked or (usable_cores() if size >= MIN_PARALLEL_BYTES else 1)


def local_executor(count: int) -> Executor:
    return in_process if count == 1 else process_pool(count)


def process_pool(count: int) -> Executor:
    def run(work: Work, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        waiting, failures = dict(enumerate(items)), 0
        while waiting:
            before = len(waiting)
            for place, result in _in_pool(work, waiting, count):
                yield waiting.pop(place), result
            failures = failures + 1 if len(waiting) == before else 0
            if failures == ATTEMPTS:
                raise workers_killed()

    return run


def workers_killed() -> UserError:
    hint = "they may have run out of memory: use fewer, --workers 1"
    return UserError(f"workers were killed {ATTEMPTS} times in a row", hint)


def _in_pool(work: Work, items: dict[int, Any], count: int) -> Iterator[tuple[int, Any]]:
    """What gets done. A worker that is killed takes its pool along: what the others were making is missing, too."""
    fresh = multiprocessing.get_context("spawn")  # a fork would copy threads in the middle of their work
    life, ours = fresh.Pipe(duplex=False)
    pool = ProcessPoolExecutor(min(count, len(items)), fresh, exit_with_parent, (life,))
    try:
        with contextlib.suppress(BrokenProcessPool):
            with sigint_blocked():
                places = {pool.submit(work, item): place for place, item in items.items()}
            for done in as_completed(places):
                yield places[done], done.result()
    finally:
        ours.close()  # whatever is still at work stops now
        pool.shutdown(cancel_futures=True)
        life.close()
