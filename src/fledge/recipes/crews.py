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
from typing import Any

import torch

from fledge.base import cluster
from fledge.base.errors import UserError
from fledge.checkpoint import run as run_folder
from fledge.checkpoint import store
from fledge.checkpoint.run import Run
from fledge.datasets.engines import ATTEMPTS, cores
from fledge.recipes.errands import BROKEN, DONE, FRESH, KILLED, REFUSED, STOPPED, Errand, status, stop
from fledge.recipes.resume import resume
from fledge.recipes.settings import resolve, settle
from fledge.recipes.train import train

PATIENCE = 60.0  # seconds for a trial whose sweep was killed to notice that


@dataclass(frozen=True)
class Job:
    """A trial to be trained: `name`.toml → its run folder and its log, all in the folder of the sweep."""

    name: str
    errand: Errand
    on_gpu: bool


Ends = Generator[tuple[Job, int], None, None]
Crew = Callable[[Iterator[Job]], Ends]


def job_of(folder: Path, name: str, device: str) -> Job:
    folder = folder.absolute()
    return Job(name, Errand(partial(train_or_go_on, folder, name), folder / f"{name}.log"), device in ("auto", "cuda"))


def train_or_go_on(folder: Path, name: str) -> None:
    run = run_folder.look_up(name, folder)
    if run is None:
        train(resolve(str(folder / f"{name}.toml"), []), folder, name=name, base_name=name)
        return
    _wait_until_left(run)
    steps = settle(run.config()).train.steps
    if not any(saved.step == steps and not saved.owed for saved in store.complete(run.checkpoints)):
        resume(name, folder)


def _wait_until_left(run: Run) -> None:
    """Where a sweep is killed and begun anew at once, its trials may not have noticed yet."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(UserError), run.alone():
            return
        time.sleep(0.2)


# Processes


@dataclass
class Worker:
    job: Job
    place: int
    process: BaseProcess
    attempts: int = 1


def processes(count: int) -> Crew:
    def run(jobs: Iterator[Job]) -> Ends:
        life, ours = FRESH.Pipe(duplex=False)
        working: list[Worker] = []

        def started(job: Job, place: int) -> BaseProcess:
            return job.errand.start(life, partial(take_share, place, count))

        try:
            while True:
                for job in islice(jobs, count - len(working)):
                    place = min(set(range(count)) - {worker.place for worker in working})
                    working.append(Worker(job, place, started(job, place)))
                if not working:
                    return
                wait([worker.process.sentinel for worker in working])
                for worker in [worker for worker in working if worker.process.exitcode is not None]:
                    code = status(worker.process)
                    if code in (DONE, BROKEN, REFUSED, *STOPPED) or worker.attempts == ATTEMPTS:
                        working.remove(worker)
                        yield worker.job, code
                    else:
                        worker.attempts += 1
                        worker.process = started(worker.job, worker.place)
        finally:
            stop([worker.process for worker in working])
            ours.close()
            life.close()

    return run


def take_share(place: int, count: int) -> None:
    """Of this machine's cores, and of its GPUs."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cores() // count))
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = seen.split(",") if seen is not None else [str(gpu) for gpu in range(torch.cuda.device_count())]
    if len(gpus) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]


# Ray


def on_ray(address: str | None, count: int) -> Crew:
    cluster.refuse_missing("--engine ray")
    if address is not None:
        cluster.knock(address)

    def run(jobs: Iterator[Job]) -> Ends:
        import ray

        with cluster.session(address):
            there, waiting = cluster.machines(), dict[Any, Job]()
            while True:
                waiting |= {_sent(job, there, count): job for job in islice(jobs, count - len(waiting))}
                if not waiting:
                    return
                (done, *_), _ = ray.wait(list(waiting))
                yield waiting.pop(done), _answer(done)

    return run


def _sent(job: Job, there: list[tuple[int, int]], count: int) -> Any:
    import ray

    on_gpu = job.on_gpu and any(gpus for _, gpus in there)
    cores = max(1, cluster.cores_each(there, count, with_gpu=on_gpu))  # where there is no room for all, some wait
    # A process of its own for each; Ray begins those anew whose process dies.
    task = ray.remote(max_calls=1, max_retries=ATTEMPTS - 1, num_cpus=cores, num_gpus=int(on_gpu))
    return task(Errand.do).remote(job.errand)


def _answer(done: Any) -> int:
    from ray import exceptions, get

    try:
        return int(get(done))
    except (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError):
        return KILLED
    except exceptions.RayError as error:
        raise cluster.gave_up(error) from error
