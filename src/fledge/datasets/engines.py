"""Who does the work: this process, several on this machine, or a Ray cluster. All do the same, part by part.

An engine takes a function and what it is to be called with, and gives back pairs as they are done, in any order.
The function is pure and its results are on disk, so whatever dies, only what was being made is made again.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any

from fledge.base.errors import UserError

Work = Callable[[Any], Any]
Engine = Callable[[Work, Sequence[Any]], Iterator[tuple[Any, Any]]]

SMALL = 64 << 20  # bytes of text: less is done sooner than processes are started
ATTEMPTS = 3  # in a row, before a worker that dies is nobody's accident


def here(work: Work, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    for item in items:
        yield item, work(item)


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local(count: int | None, size: int) -> Engine:
    """As many processes as asked for, or as the text is worth."""
    count = count or worth(size)
    return here if count == 1 else processes(count)


def worth(size: int) -> int:
    """One process a core, and none besides this one for a text of little `size`."""
    return cores() if size >= SMALL else 1


def processes(count: int) -> Engine:
    def run(work: Work, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        waiting, failures = dict(enumerate(items)), 0
        while waiting:
            try:
                for place, result in _in_pool(work, waiting, count):
                    failures = 0
                    yield waiting.pop(place), result
            except BrokenProcessPool:
                failures += 1
                if failures == ATTEMPTS:
                    raise UserError(
                        f"workers were killed {ATTEMPTS} times in a row",
                        "they may have run out of memory: use fewer, --workers 1; what is finished is kept",
                    ) from None

    return run


def _in_pool(work: Work, items: dict[int, Any], count: int) -> Iterator[tuple[int, Any]]:
    fresh = multiprocessing.get_context("spawn")  # a fork would copy threads in the middle of their work
    life, ours = fresh.Pipe(duplex=False)
    pool = ProcessPoolExecutor(count, fresh, _live_while_open, (life,))
    try:
        places = {pool.submit(work, item): place for place, item in items.items()}
        for done in as_completed(places):
            yield places[done], done.result()
    finally:
        ours.close()  # whatever is still at work stops now
        pool.shutdown(cancel_futures=True)
        life.close()


def _live_while_open(life: Connection) -> None:
    """A worker ends with the process that wants its work, however that one ends; signals are that one's, too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        life.poll(None)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def on_ray(address: str | None) -> Engine:
    """On a cluster, or on one that is started here for the time of the work. Its machines must all see the files."""
    try:
        import ray
    except ImportError:
        raise UserError("--engine ray needs Ray, which is not installed", "pip install 'fledge[ray]'") from None

    def run(work: Work, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        with _ray_session(address):
            task = ray.remote(max_retries=ATTEMPTS)(_call)  # where a worker dies, Ray begins its task anew
            shared = ray.put(work)
            waiting = {task.remote(shared, item): item for item in items}
            while waiting:
                (done, *_), _ = ray.wait(list(waiting))
                try:
                    result = ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from None
                except ray.exceptions.RayError as error:
                    raise UserError(f"Ray gave up: {error}", "what is finished is kept; run it again") from None
                yield waiting.pop(done), result

    return run


def _call(work: Work, item: Any) -> Any:
    return work(item)


@contextlib.contextmanager
def _ray_session(address: str | None) -> Iterator[None]:
    import ray

    if ray.is_initialized():  # the caller's own
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told that fledge runs here
    try:
        ray.init(address=address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"there is no Ray cluster at '{address}': {error}", "check --address") from None
    try:
        yield
    finally:
        ray.shutdown()
