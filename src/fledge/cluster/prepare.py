"""Prepare a dataset on a Ray cluster: an executor for `datasets.build`, with one Ray task for each part."""

import contextlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from fledge.cluster import connect
from fledge.datasets.executors import ATTEMPTS, Executor, Work, workers_killed


@contextlib.contextmanager
def ray_executor(address: str | None, count: int | None) -> Iterator[Executor]:
    """An executor on the cluster at `address`, or on a local one; every machine must see the same files.

    At most `count` tasks run at a time. The connection is made when there is work to do.
    """
    connect.require_ray("--engine ray")
    import ray

    if address is not None:
        connect.check_reachable(address)

    def run(work: Work, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        if not items:
            return
        session.enter_context(connect.ray_session(address))
        task = ray.remote(max_retries=ATTEMPTS - 1)(_call)  # Ray repeats the task of a worker that dies
        shared, queue = ray.put(work), iter(items)
        pending = {task.remote(shared, item): item for item in islice(queue, count)}
        while pending:
            (done, *_), _ = ray.wait(list(pending))
            try:
                result = ray.get(done)
            except ray.exceptions.RayError as error:
                raise _original_error(error) from error
            yield pending.pop(done), result
            pending.update((task.remote(shared, item), item) for item in islice(queue, 1))

    with contextlib.ExitStack() as session:
        yield run


def _call(work: Work, item: Any) -> Any:
    return work(item)


def _original_error(error: Exception) -> Exception:
    """The exception that the work raised on the worker; failures of Ray itself become a UserError."""
    from ray import exceptions

    cause: Exception = error.cause if isinstance(error, exceptions.RayTaskError) else error
    if isinstance(cause, exceptions.WorkerCrashedError | exceptions.OutOfMemoryError):
        return workers_killed()
    if isinstance(cause, exceptions.RayError):
        return connect.ray_error(cause)
    return cause
