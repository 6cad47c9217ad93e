"""Who does the trials of a sweep: processes of this machine, or a Ray cluster. Each trial has a process of its own.

A crew is given trials one after the other, whenever there is room for one more, and gives back how each has ended. One
that is killed is begun again, and so goes on with its run; a third time is its end. With the sweep its trials end, too.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from fledge.base import cluster
from fledge.base.errors import Interrupted, UserError, asked_by, from_system, out_of_memory
from fledge.base.files import cache_dir
from fledge.checkpoint import run as run_folder
from fledge.checkpoint import store
from fledge.checkpoint.run import Run
from fledge.datasets.engines import ATTEMPTS, cores, deaf_children, live_while_open
from fledge.recipes.resume import resume
from fledge.recipes.settings import resolve, settle
from fledge.recipes.train import train

PATIENCE = 60.0  # seconds for a trial whose sweep was killed to notice that
TIDYING = 20.0  # seconds to save and end
DONE, REFUSED, BROKEN = 0, 2, 1  # exit status, as that of a verb
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
KILLED = 128 + signal.SIGKILL


@dataclass(frozen=True)
class Job:
    """A trial as another process, perhaps on another machine, needs it told."""

    folder: Path  # of the sweep
    name: str
    on_gpu: bool
    here: Path
    cache: Path

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.toml"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"


Ends = Generator[tuple[Job, int], None, None]
Crew = Callable[[Iterator[Job]], Ends]


def job_of(folder: Path, name: str, device: str) -> Job:
    return Job(folder.absolute(), name, device in ("auto", "cuda"), Path.cwd(), cache_dir().absolute())


# One trial


def attempt(job: Job) -> int:
    """Train, or go on with what a trial before has left. What it says goes into its log; the answer is a status."""
    os.chdir(job.here)  # Ray's workers are somewhere else, and people name files by where they are
    os.environ["FLEDGE_CACHE"] = str(job.cache)
    with job.log.open("a", buffering=1) as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        try:
            _train_or_go_on(job)
        except Interrupted as stop:
            return stop.code
        except KeyboardInterrupt as stop:
            return 128 + asked_by(stop)
        except (UserError, OSError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not out_of_memory(error):
                traceback.print_exc()
                return BROKEN
            mistake = error if isinstance(error, UserError) else from_system(error)
            print(f"error: {mistake.message}\nhint: {mistake.hint}")
            return REFUSED
        return DONE


def _train_or_go_on(job: Job) -> None:
    run = run_folder.look_up(job.name, job.folder)
    if run is None:
        train(resolve(str(job.file), []), job.folder, name=job.name, base_name=job.name)
        return
    _wait_until_left(run)
    steps = settle(run.config()).train.steps
    if not any(saved.step == steps and not saved.owed for saved in store.complete(run.checkpoints)):
        resume(job.name, job.folder)


def _wait_until_left(run: Run) -> None:
    """Where a sweep is killed and begun anew at once, its trials may not have noticed yet."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(UserError), run.alone():
            return
        time.sleep(0.2)


def why(job: Job) -> str:
    """The last thing that a trial said before it failed."""
    with contextlib.suppress(OSError):
        said = job.log.read_text(errors="replace").splitlines()
        errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
        return next(iter([*errors[-1:], *said[-1:]]), "")
    return ""


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
        try:
            while True:
                for job in islice(jobs, count - len(working)):
                    place = min(set(range(count)) - {worker.place for worker in working})
                    working.append(Worker(job, place, _started(job, place, count, life)))
                if not working:
                    return
                wait([worker.process.sentinel for worker in working])
                for worker in [worker for worker in working if worker.process.exitcode is not None]:
                    code = _status(worker.process)
                    if code in (*STOPPED, DONE, REFUSED, BROKEN) or worker.attempts == ATTEMPTS:
                        working.remove(worker)
                        yield worker.job, code
                    else:
                        worker.attempts += 1
                        worker.process = _started(worker.job, worker.place, count, life)
        finally:
            _end([worker.process for worker in working])
            ours.close()
            life.close()

    return run


FRESH = multiprocessing.get_context("forkserver")  # a fork of this one would copy threads in the middle of their work
FRESH.set_forkserver_preload([__name__])  # so each trial finds torch imported


def _started(job: Job, place: int, count: int, life: Connection) -> BaseProcess:
    process = FRESH.Process(target=_attend, args=(job, place, count, life))
    with deaf_children():
        process.start()
    return process


def _attend(job: Job, place: int, count: int, life: Connection) -> None:
    live_while_open(life)
    take_share(place, count)
    sys.exit(attempt(job))


def take_share(place: int, count: int) -> None:
    """Of this machine's cores, and of its GPUs."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cores() // count))
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = seen.split(",") if seen is not None else [str(gpu) for gpu in range(torch.cuda.device_count())]
    if len(gpus) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]


def _status(process: BaseProcess) -> int:
    code = process.exitcode
    assert code is not None
    return code if code >= 0 else 128 - code


def _end(left: list[BaseProcess]) -> None:
    """They save what they have."""
    for process in left:
        process.terminate()
    for process in left:
        process.join(TIDYING)
        process.kill()


# Ray


def on_ray(address: str | None, count: int) -> Crew:
    cluster.refuse_missing("--engine ray")
    if address is not None:
        cluster.knock(address)

    def run(jobs: Iterator[Job]) -> Ends:
        import ray

        with cluster.session(address):
            waiting: dict[Any, Job] = {}
            while True:
                waiting |= {_sent(job, count): job for job in islice(jobs, count - len(waiting))}
                if not waiting:
                    return
                (done, *_), _ = ray.wait(list(waiting))
                yield waiting.pop(done), _answer(done)

    return run


def _sent(job: Job, count: int) -> Any:
    import ray

    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus = 1 if job.on_gpu and there.get("GPU") else 0
    # A process of its own for each; Ray begins those anew whose process dies.
    task = ray.remote(max_calls=1, max_retries=ATTEMPTS - 1, num_cpus=_cores_each(count), num_gpus=gpus)(attempt)
    return task.remote(job)


def _cores_each(count: int) -> int:
    """So that `count` trials share all machines; no trial goes beyond one of them."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    there = [node["Resources"].get("CPU", 0) for node in nodes if node["Alive"]]
    return max(1, int(min(max(there), sum(there) / count)))


def _answer(done: Any) -> int:
    from ray import exceptions, get

    try:
        return int(get(done))
    except (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError):
        return KILLED
    except exceptions.RayError as error:
        raise cluster.gave_up(error) from error
