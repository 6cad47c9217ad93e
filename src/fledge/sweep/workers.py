"""Run the trials of a sweep in processes of this machine, a few at a time, each in a process of its own.

A runner takes jobs one by one, whenever a worker is free, and yields the exit status of each. A trial that is killed is
restarted, and so resumes its run; after JOB_ATTEMPTS it has failed. When the sweep ends, its trials end, too.
"""

import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

import torch

from fledge.core.cgroups import usable_cores
from fledge.core.jobs import CRASHED, DONE, FORKSERVER, JOB_ATTEMPTS, REFUSED, STOPPED, Job, exit_status, stop_all


@dataclass(frozen=True)
class TrialJob:
    name: str
    job: Job
    on_gpu: bool


TrialEnds = Generator[tuple[TrialJob, int], None, None]
TrialRunner = Callable[[Iterator[TrialJob]], TrialEnds]


@dataclass
class TrialWorker:
    job: TrialJob
    slot: int
    process: BaseProcess
    attempts: int = 1


def local_workers(count: int) -> TrialRunner:
    """Up to `count` trials at a time on this machine."""

    def run(jobs: Iterator[TrialJob]) -> TrialEnds:
        child_end, parent_end = FORKSERVER.Pipe(duplex=False)
        workers: list[TrialWorker] = []

        def start(job: TrialJob, slot: int) -> BaseProcess:
            return job.job.start(child_end, partial(use_slot, slot, count))

        try:
            while True:
                for job in islice(jobs, count - len(workers)):
                    slot = min(set(range(count)) - {worker.slot for worker in workers})
                    workers.append(TrialWorker(job, slot, start(job, slot)))
                if not workers:
                    return
                wait([worker.process.sentinel for worker in workers])
                for worker in [worker for worker in workers if worker.process.exitcode is not None]:
                    code = exit_status(worker.process)
                    if code in (DONE, CRASHED, REFUSED, *STOPPED) or worker.attempts == JOB_ATTEMPTS:
                        workers.remove(worker)
                        yield worker.job, code
                    else:
                        worker.attempts += 1
                        worker.process = start(worker.job, worker.slot)
        finally:
            stop_all([worker.process for worker in workers])
            parent_end.close()
            child_end.close()

    return run


def use_slot(slot: int, count: int) -> None:
    """Limit this process to its share of the machine's cores, and to one of its GPUs."""
    if "OMP_NUM_THREADS" not in os.environ:  # torch is loaded already, so fledge.core.threads reads it
        os.environ["OMP_NUM_THREADS"] = str(max(1, usable_cores() // count))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible is not None else [str(gpu) for gpu in range(torch.cuda.device_count())]
    if len(gpus) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
