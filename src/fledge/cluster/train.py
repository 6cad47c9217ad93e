"""--launcher ray: Ray Train places and restarts the processes of one training run, in place of torchrun.

This is the driver side; train_backend.py is what runs on the cluster. Each process does what it
would do under torchrun.
"""

import contextlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from fledge.cluster import connect
from fledge.core.distributed import World, init_distributed, peer_lost, world_size_of_launcher
from fledge.core.errors import Interrupted, UserError
from fledge.core.files import new_folders
from fledge.core.jobs import DONE, ERROR, HINT, STOPPED, Job, failure_reason, logged_error
from fledge.core.progress import notice
from fledge.core.signals import signal_number
from fledge.training.config import TrainConfig
from fledge.training.setup import check_batch_divisible

POLL_SECONDS = 0.3

RankWork = Callable[..., object]  # called with world=…; must be picklable


def train_on_ray(
    work: RankWork, *, run: str, runs: Path, train: TrainConfig, workers: int | None, address: str | None
) -> None:
    """Call `work` in `workers` processes on a Ray cluster, until it has finished. `run`: how a command names the run.

    Ray restarts all of them when one dies, so `work` must continue a run that it has begun. A refusal or a signal is
    raised here as it would be by `work` itself.
    """
    if world_size_of_launcher() > 1:
        raise UserError("--launcher ray starts its own processes, but torchrun has started this one", "use one of them")
    connect.require_ray("--launcher ray", "ray.train.torch")
    if address is not None:
        connect.check_reachable(address)
    # The session ends before the pool does, so that a trainer which still waits for the cluster fails at once.
    with _shared_folder(runs) as folder, ThreadPoolExecutor(1) as pool, connect.ray_session(address):
        from fledge.cluster import train_backend

        count, cores, on_gpus = _worker_resources(connect.ray_nodes(), workers, train)
        notice(f"{count} processes on Ray, each with {'a GPU and ' if on_gpus else ''}cores: {cores}")
        job = Job(partial(_run_rank, work), folder / "rank-0.log")
        trainer = train_backend.ray_trainer(job, folder, count, cores, on_gpus=on_gpus)
        with follow_log(job.log):
            status = _wait_for_status(pool.submit(trainer.fit), run, folder)
        raise_for_status(status, job.log, run)


def _run_rank(work: RankWork) -> None:
    with init_distributed() as world:
        work(world=world)


def _worker_resources(nodes: list[tuple[int, int]], workers: int | None, train: TrainConfig) -> tuple[int, int, bool]:
    """How many processes, the cores of each, and whether each has a GPU. Refused here, as Ray would wait for ever."""
    gpus = sum(count for _, count in nodes) if train.device in ("auto", "cuda") else 0
    count = workers or gpus or len(nodes)
    check_batch_divisible(train.batch, World(size=count))
    cores = connect.cores_per_worker(nodes, count, with_gpu=gpus > 0)
    if not cores:
        size = f"{gpus} GPUs" if gpus else f"{sum(cores for cores, _ in nodes)} cores"
        raise UserError(f"the Ray cluster has {size}: too few for {count} processes", "use fewer: --workers N")
    return count, cores, gpus > 0


@contextlib.contextmanager
def _shared_folder(runs: Path) -> Iterator[Path]:
    """A temporary folder that every process sees: for their logs, and for Ray Train's own files."""
    with new_folders(runs):
        folder = Path(tempfile.mkdtemp(prefix=".ray-", dir=runs.absolute()))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _wait_for_status(fit: "Future[Any]", run: str, folder: Path) -> int:
    """The exit status of rank 0. Ctrl-C or SIGTERM here asks all ranks to save and stop."""
    from ray.train import TrainingFailedError

    from fledge.cluster.train_backend import MAX_RESTARTS, STOP_FILE

    try:
        return int(fit.result().return_value)
    except KeyboardInterrupt as stop:
        (folder / STOP_FILE).touch()
        if list(folder.glob("rank-*")):  # ranks have started; a second Ctrl-C does not wait for them
            notice("stopping after this step, and saving")
            with contextlib.suppress(Exception):
                fit.result()
        raise Interrupted(signal_number(stop), f"fledge resume {run}") from None
    except TrainingFailedError as error:
        reasons = map(failure_reason, sorted(folder.glob("rank-*.log")))
        causes = [reason for reason in reasons if reason and reason != peer_lost().message]
        raise UserError(
            f"the training failed {MAX_RESTARTS + 1} times: {next(iter(causes), connect.first_line(error))}",
            f"the checkpoints are intact: fledge resume {run}",
        ) from error


def raise_for_status(status: int, log: Path, run: str) -> None:
    """Raise what rank 0 raised in its own process, as far as its exit status and its log tell."""
    if status in STOPPED:
        raise Interrupted(status - 128, f"fledge resume {run}")
    if status != DONE:
        raise logged_error(log)


@contextlib.contextmanager
def follow_log(log: Path) -> Iterator[None]:
    """Copy the lines of rank 0's log to stderr as they come, except its error and hint, which are raised here."""
    ended = threading.Event()

    def copy() -> None:
        offset, last = 0, False
        while not last:
            last = ended.wait(POLL_SECONDS)
            new = _complete_lines(log, offset)
            offset += len(new)
            for line in new.decode(errors="replace").splitlines():
                if not line.startswith((ERROR, HINT)):
                    notice(line)

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _complete_lines(log: Path, offset: int) -> bytes:
    """Complete lines from `offset` on. The file is reopened each time: NFS may show an open file as it was."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(offset)
        content = file.read()
        return content[: content.rfind(b"\n") + 1]
    return b""
