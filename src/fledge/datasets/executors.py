"""Executors: run one function over many items, in this process or in several.

An executor takes a function and its inputs, and yields (input, result) pairs as they finish, in any order. The
function writes its result to disk and always gives the same result, so after a crash only unfinished work is repeated.
Executors on a Ray cluster are in fledge.cluster.prepare.
"""

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from fledge.core.cgroups import usable_cores
from fledge.core.errors import UserError
from fledge.core.signals import exit_with_parent, sigint_blocked

Task = Callable[[Any], Any]
Executor = Callable[[Task, Sequence[Any]], Iterator[tuple[Any, Any]]]

MIN_PARALLEL_BYTES = 64 << 20  # for less text, starting processes takes longer than the work itself
MAX_ATTEMPTS = 3  # rounds in a row in which workers are killed and nothing is finished


def in_process(task: Task, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Run the items one after another in this process."""
    for item in items:
        yield item, task(item)


def worker_count(requested: int | None, size: int) -> int:
    """The requested number, else one worker per core; one worker for a text of less than MIN_PARALLEL_BYTES."""
    return requested or (usable_cores() if size >= MIN_PARALLEL_BYTES else 1)


def local_executor(workers: int) -> Executor:
    return in_process if workers == 1 else process_pool(workers)


def process_pool(workers: int) -> Executor:
    """An executor with worker processes. Items of killed workers are run again, up to MAX_ATTEMPTS times."""

    def run(task: Task, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        remaining, failures = dict(enumerate(items)), 0
        while remaining:
            before = len(remaining)
            for index, result in _run_pool(task, remaining, workers):
                yield remaining.pop(index), result
            failures = failures + 1 if len(remaining) == before else 0
            if failures == MAX_ATTEMPTS:
                raise workers_killed()

    return run


def workers_killed() -> UserError:
    hint = "they may have run out of memory: use fewer, for example --workers 1"
    return UserError(f"workers were killed {MAX_ATTEMPTS} times in a row", hint)


def _run_pool(task: Task, items: dict[int, Any], workers: int) -> Iterator[tuple[int, Any]]:
    """Yield results until all are done, or until a killed worker breaks the pool."""
    context = multiprocessing.get_context("spawn")  # fork would copy locks that other threads hold
    pipe, our_end = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(min(workers, len(items)), context, exit_with_parent, (pipe,))
    try:
        with contextlib.suppress(BrokenProcessPool):
            with sigint_blocked():
                indices = {pool.submit(task, item): index for index, item in items.items()}
            for future in as_completed(indices):
                yield indices[future], future.result()
    finally:
        our_end.close()  # stops workers that are still busy
        pool.shutdown(cancel_futures=True)
        pipe.close()
