"""Run the trials of a sweep on a Ray cluster: one Ray task, and so one process, for each trial."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from fledge.cluster import connect
from fledge.core.jobs import JOB_ATTEMPTS, KILLED, Job
from fledge.sweep.workers import TrialEnds, TrialJob, TrialRunner


def ray_workers(address: str | None, count: int) -> TrialRunner:
    """Up to `count` trials at a time on the cluster at `address`, or on a local one."""
    connect.require_ray("--engine ray")
    if address is not None:
        connect.check_reachable(address)

    def run(jobs: Iterator[TrialJob]) -> TrialEnds:
        import ray

        with connect.ray_session(address):
            nodes, pending = connect.ray_nodes(), dict[Any, TrialJob]()
            while True:
                pending |= {_submit(job, nodes, count): job for job in islice(jobs, count - len(pending))}
                if not pending:
                    return
                (done, *_), _ = ray.wait(list(pending))
                yield pending.pop(done), _exit_status(done)

    return run


def _submit(job: TrialJob, nodes: list[tuple[int, int]], count: int) -> Any:
    import ray

    on_gpu = job.on_gpu and any(gpus for _, gpus in nodes)
    cores = max(1, connect.cores_per_worker(nodes, count, with_gpu=on_gpu))  # if they do not all fit, some wait
    # max_calls=1: a new process for each trial. Ray repeats the task if that process dies.
    task = ray.remote(max_calls=1, max_retries=JOB_ATTEMPTS - 1, num_cpus=cores, num_gpus=int(on_gpu))
    return task(Job.run).remote(job.job)


def _exit_status(done: Any) -> int:
    from ray import exceptions, get

    try:
        return int(get(done))
    except (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError):
        return KILLED
    except exceptions.RayError as error:
        raise connect.ray_error(error) from error
