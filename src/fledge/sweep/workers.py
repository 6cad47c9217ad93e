"""Who does the trials of a sweep: processes of this machine, or a Ray cluster. Each trial has a process of its own.

A crew is given trials one after the other, whenever there is room for one more, and gives back how each has ended. One
that is killed is begun again, and so goes on with its run; a third time is its end. With the sweep its trials end, too.
"""

import contextlib
import os
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from fledge.checkpoint import store
from fledge.core.errors import UserError
from fledge.core.jobs import CRASHED, DONE, FORKSERVER, REFUSED, STOPPED, Job, exit_status, stop_all
from fledge.datasets.executors import ATTEMPTS, usable_cores
from fledge.recipes.resume import resume
from fledge.recipes.train import train
from fledge.runs.run_folder import RunFolder, find_run
from fledge.settings.pipeline import resolve, validated

LOCK_TIMEOUT = 60.0  # seconds for a trial whose sweep was killed to notice that


@dataclass(frozen=True)
class TrialJob:
    """A trial to be trained: `name`.toml → its run folder and its log, all in the folder of the sweep."""

    name: str
    job: Job
    on_gpu: bool


TrialEnds = Generator[tuple[TrialJob, int], None, None]
TrialRunner = Callable[[Iterator[TrialJob]], TrialEnds]


def job_of(folder: Path, name: str, device: str) -> TrialJob:
    folder = folder.absolute()
    job = Job(
        partial(train_or_go_on, folder, name), folder / f"{name}.log", preload=(train.__module__, resume.__module__)
    )
    return TrialJob(name, job, device in ("auto", "cuda"))


def train_or_go_on(folder: Path, name: str) -> None:
    run = find_run(name, folder)
    if run is None:
        train(resolve(str(folder / f"{name}.toml"), []), folder, name=name, base_name=name)
        return
    _wait_until_left(run)
    steps = validated(run.config()).train.steps
    if not any(
        saved.step == steps and not saved.pending_hooks for saved in store.complete_checkpoints(run.checkpoints)
    ):
        resume(name, folder)


def _wait_until_left(run: RunFolder) -> None:
    """Where a sweep is killed and begun anew at once, its trials may not have noticed yet."""
    end = time.monotonic() + LOCK_TIMEOUT
    while time.monotonic() < end:
        with contextlib.suppress(UserError), run.lock():
            return
        time.sleep(0.2)


# Processes


@dataclass
class TrialWorker:
    job: TrialJob
    place: int
    process: BaseProcess
    attempts: int = 1


def local_workers(count: int) -> TrialRunner:
    def run(jobs: Iterator[TrialJob]) -> TrialEnds:
        life, ours = FORKSERVER.Pipe(duplex=False)
        working: list[TrialWorker] = []

        def started(job: TrialJob, place: int) -> BaseProcess:
            return job.job.start(life, partial(use_share, place, count))

        try:
            while True:
                for job in islice(jobs, count - len(working)):
                    place = min(set(range(count)) - {worker.place for worker in working})
                    working.append(TrialWorker(job, place, started(job, place)))
                if not working:
                    return
                wait([worker.process.sentinel for worker in working])
                for worker in [worker for worker in working if worker.process.exitcode is not None]:
                    code = exit_status(worker.process)
                    if code in (DONE, CRASHED, REFUSED, *STOPPED) or worker.attempts == ATTEMPTS:
                        working.remove(worker)
                        yield worker.job, code
                    else:
                        worker.attempts += 1
                        worker.process = started(worker.job, worker.place)
        finally:
            stop_all([worker.process for worker in working])
            ours.close()
            life.close()

    return run


def use_share(place: int, count: int) -> None:
    """Of this machine's cores, and of its GPUs."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, usable_cores() // count))
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = seen.split(",") if seen is not None else [str(gpu) for gpu in range(torch.cuda.device_count())]
    if len(gpus) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]
