"""--launcher ray: the processes of one training, placed, introduced and begun again by Ray Train instead of torchrun.

What they do is what they do under torchrun. Here is the side of who asks; what is done on Ray stands in placed.py.
"""

import argparse
import contextlib
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from fledge.checkpoint import store
from fledge.cluster import connect
from fledge.core.distributed import World, init_distributed, peer_lost, world_size_of_launcher
from fledge.core.errors import Interrupted, UserError
from fledge.core.files import new_folders
from fledge.core.jobs import DONE, ERROR, HINT, STOPPED, Job, failure_reason, refusal
from fledge.core.progress import notice
from fledge.core.signals import signal_number
from fledge.recipes.train_result import TrainResult, train_result
from fledge.runs import run_folder
from fledge.training.config import Settings
from fledge.training.setup import check_batch_divisible

POLL_SECONDS = 0.3  # seconds

Work = Callable[[argparse.Namespace, World], object]


def refuse_idle(args: argparse.Namespace) -> None:
    for name in ("workers", "address"):
        if getattr(args, name) is not None and not args.launcher:
            raise UserError(f"--{name} is for --launcher ray", "add that, or leave this out")


def launch_on_ray(work: Work, args: argparse.Namespace, name: str, settings: Settings) -> TrainResult:
    """`work` done by as many processes as were asked for; each has `args`, and all see the same files."""
    if world_size_of_launcher() > 1:
        raise UserError("torchrun has started this, and --launcher ray would start as many again", "use one of them")
    connect.require_ray("--launcher ray", "ray.train.torch")
    if args.address is not None:
        connect.check_reachable(args.address)
    # The cluster is left first: whoever still waits for its answer then gets one.
    with _cluster_storage(args.runs) as folder, ThreadPoolExecutor(1) as pool, connect.ray_session(args.address):
        from fledge.cluster import ray_train

        count, cores, on_gpus = _worker_resources(connect.ray_nodes(), args.workers, settings)
        notice(f"{count} processes on Ray; each waits for {'a GPU and ' if on_gpus else ''}cores: {cores}")
        each = Job(partial(start_on_ray, work, args), folder / "rank-0.log")
        trainer = ray_train.trainer(each, folder, count, cores, on_gpus=on_gpus)
        with follow_log(each.log):
            code = _code(pool.submit(trainer.fit), name, folder)
        return exit_result(code, each.log, name, args.runs)


def start_on_ray(work: Work, args: argparse.Namespace) -> None:
    with init_distributed() as world:
        work(args, world)


def _worker_resources(machines: list[tuple[int, int]], asked: int | None, settings: Settings) -> tuple[int, int, bool]:
    """How many processes, the cores of each, and whether each has a GPU. Ray waits for ever for what is not there."""
    gpus = sum(there for _, there in machines) if settings.train.device in ("auto", "cuda") else 0
    count = asked or gpus or len(machines)
    check_batch_divisible(settings.train.batch, World(size=count))
    cores = connect.cores_per_worker(machines, count, with_gpu=gpus > 0)
    if not cores:
        there = f"{gpus} GPUs" if gpus else f"{sum(cores for cores, _ in machines)} cores"
        raise UserError(f"the Ray cluster has {there}: too few for {count} processes", "use fewer: --workers N")
    return count, cores, gpus > 0


@contextlib.contextmanager
def _cluster_storage(runs: Path) -> Iterator[Path]:
    """A folder that all see: their words, and what Ray Train notes of its own."""
    with new_folders(runs):
        folder = Path(tempfile.mkdtemp(prefix=".ray-", dir=runs.absolute()))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _code(fit: "Future[Any]", name: str, folder: Path) -> int:
    from ray.train import TrainingFailedError

    from fledge.cluster.ray_train import FAILURES, STOP

    try:
        return int(fit.result().return_value)
    except KeyboardInterrupt as stop:
        (folder / STOP).touch()
        if list(folder.glob("rank-*")):  # they are at work; a second Ctrl-C does not wait for them
            notice("stopping after this step, and saving")
            with contextlib.suppress(Exception):
                fit.result()
        raise Interrupted(signal_number(stop), f"fledge resume {name}") from None
    except TrainingFailedError as error:
        reasons = map(failure_reason, sorted(folder.glob("rank-*.log")))
        told = [reason for reason in reasons if reason and reason != peer_lost().message]
        raise UserError(
            f"the training failed {FAILURES + 1} times: {next(iter(told), connect.first_line(error))}",
            f"what was saved is whole: go on with fledge resume {name}",
        ) from error


def exit_result(code: int, log: Path, name: str, runs: Path) -> TrainResult:
    """What the first's status means here, where nobody has seen it train."""
    if code in STOPPED:
        raise Interrupted(code - 128, f"fledge resume {name}")
    if code != DONE:
        raise refusal(log)
    run = run_folder.open_run(name, runs)
    return train_result(run, max((saved.step for saved in store.complete_checkpoints(run.checkpoints)), default=0))


@contextlib.contextmanager
def follow_log(log: Path) -> Iterator[None]:
    """What the first says, wherever it is, is said here too; how it failed is said by us."""
    ended = threading.Event()

    def copy() -> None:
        heard, last = 0, False
        while not last:
            last = ended.wait(POLL_SECONDS)
            new = _lines_from(log, heard)
            heard += len(new)
            for line in new.decode(errors="replace").splitlines():
                if not line.startswith((ERROR, HINT)):
                    print(line, file=sys.stderr, flush=True)

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _lines_from(log: Path, place: int) -> bytes:
    """Whole ones. It is opened each time: on a disk of the network, who holds a file open may see an old one."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(place)
        said = file.read()
        return said[: said.rfind(b"\n") + 1]
    return b""
