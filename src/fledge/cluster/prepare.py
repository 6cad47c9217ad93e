"""Prepare a dataset on a Ray cluster: the executor that runs `fledge prepare --engine ray`."""

import contextlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from fledge.cluster import connect
from fledge.datasets.executors import MAX_ATTEMPTS, Executor, Task, workers_killed


@contextlib.contextmanager
def ray_executor(address: str | None, workers: int | None) -> Iterator[Executor]:
    """An executor on the cluster at `address`, or on a Ray that is started here for the time of the block.

    At most `workers` items run at a time. All machines must see the same files. Ray is joined when there is work;
    a Ray that this process has joined before is used as it is.
    """
    connect.require_ray("--engine ray")
    import ray

    if address is not None:
        connect.check_reachable(address)

    def run(task: Task, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        if not items:
            return
        session.enter_context(connect.ray_session(address))
        remote = ray.remote(max_retries=MAX_ATTEMPTS - 1)(_call)  # Ray retries when a worker dies
        shared, queue = ray.put(task), iter(items)
        running = {remote.remote(shared, item): item for item in islice(queue, workers)}
        while running:
            (done, *_), _ = ray.wait(list(running))
            try:
                result = ray.get(done)
            except ray.exceptions.RayError as error:
                raise _original_error(error) from error
            yield running.pop(done), result
            running.update((remote.remote(shared, item), item) for item in islice(queue, 1))

    with contextlib.ExitStack() as session:
        yield run


def _call(task: Task, item: Any) -> Any:
    return task(item)


def _original_error(error: Exception) -> Exception:
    """What the worker raised; Ray's own failures as a `UserError`."""
    from ray import exceptions

    cause: Exception = error.cause if isinstance(error, exceptions.RayTaskError) else error
    if isinstance(cause, exceptions.WorkerCrashedError | exceptions.OutOfMemoryError):
        return workers_killed()
    if isinstance(cause, exceptions.RayError):
        return connect.ray_error(cause)
    return cause
