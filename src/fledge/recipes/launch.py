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

from fledge.base import cluster
from fledge.base.company import Company, gone, joined, started_together
from fledge.base.errors import Interrupted, UserError, asked_by
from fledge.base.files import new_folders
from fledge.checkpoint import run as run_folder
from fledge.checkpoint import store
from fledge.recipes.assembly import refuse_uneven
from fledge.recipes.errands import DONE, ERROR, HINT, STOPPED, Errand, refusal, why
from fledge.recipes.outcome import Outcome, outcome_of
from fledge.recipes.screen import say
from fledge.recipes.settings import Settings

GLANCE = 0.3  # seconds

Work = Callable[[argparse.Namespace, Company], object]


def refuse_idle(args: argparse.Namespace) -> None:
    for name in ("workers", "address"):
        if getattr(args, name) is not None and not args.launcher:
            raise UserError(f"--{name} is for --launcher ray", "add that, or leave this out")


def launch(work: Work, args: argparse.Namespace, name: str, settings: Settings) -> Outcome:
    """`work` done by as many processes as were asked for; each has `args`, and all see the same files."""
    if started_together() > 1:
        raise UserError("torchrun has started this, and --launcher ray would start as many again", "use one of them")
    cluster.refuse_missing("--launcher ray", "ray.train.torch")
    if args.address is not None:
        cluster.knock(args.address)
    # The cluster is left first: whoever still waits for its answer then gets one.
    with _meeting_place(args.runs) as folder, ThreadPoolExecutor(1) as pool, cluster.session(args.address):
        from fledge.recipes import placed

        count, cores, on_gpus = _shares(cluster.machines(), args.workers, settings)
        say(f"{count} processes on Ray; each waits for {'a GPU and ' if on_gpus else ''}cores: {cores}")
        each = Errand(partial(together, work, args), folder / "rank-0.log")
        trainer = placed.trainer(each, folder, count, cores, on_gpus=on_gpus)
        with echoing(each.log):
            code = _code(pool.submit(trainer.fit), name, folder)
        return came_to(code, each.log, name, args.runs)


def together(work: Work, args: argparse.Namespace) -> None:
    with joined() as company:
        work(args, company)


def _shares(machines: list[tuple[int, int]], asked: int | None, settings: Settings) -> tuple[int, int, bool]:
    """How many processes, the cores of each, and whether each has a GPU. Ray waits for ever for what is not there."""
    gpus = sum(there for _, there in machines) if settings.train.device in ("auto", "cuda") else 0
    count = asked or gpus or len(machines)
    refuse_uneven(settings.train.batch, Company(size=count))
    cores = cluster.cores_each(machines, count, with_gpu=gpus > 0)
    if not cores:
        there = f"{gpus} GPUs" if gpus else f"{sum(cores for cores, _ in machines)} cores"
        raise UserError(f"the Ray cluster has {there}: too few for {count} processes", "use fewer: --workers N")
    return count, cores, gpus > 0


@contextlib.contextmanager
def _meeting_place(runs: Path) -> Iterator[Path]:
    """A folder that all see: their words, and what Ray Train notes of its own."""
    with new_folders(runs):
        folder = Path(tempfile.mkdtemp(prefix=".ray-", dir=runs.absolute()))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _code(fit: "Future[Any]", name: str, folder: Path) -> int:
    from ray.train import TrainingFailedError

    from fledge.recipes.placed import FAILURES, STOP

    try:
        return int(fit.result().return_value)
    except KeyboardInterrupt as stop:
        (folder / STOP).touch()
        if list(folder.glob("rank-*")):  # they are at work; a second Ctrl-C does not wait for them
            say("stopping after this step, and saving")
            with contextlib.suppress(Exception):
                fit.result()
        raise Interrupted(asked_by(stop), f"fledge resume {name}") from None
    except TrainingFailedError as error:
        reasons = map(why, sorted(folder.glob("rank-*.log")))
        told = [reason for reason in reasons if reason and reason != gone().message]
        raise UserError(
            f"the training failed {FAILURES + 1} times: {next(iter(told), cluster.first_line(error))}",
            f"what was saved is whole: go on with fledge resume {name}",
        ) from error


def came_to(code: int, log: Path, name: str, runs: Path) -> Outcome:
    """What the first's status means here, where nobody has seen it train."""
    if code in STOPPED:
        raise Interrupted(code - 128, f"fledge resume {name}")
    if code != DONE:
        raise refusal(log)
    run = run_folder.find(name, runs)
    return outcome_of(run, max((saved.step for saved in store.complete(run.checkpoints)), default=0))


@contextlib.contextmanager
def echoing(log: Path) -> Iterator[None]:
    """What the first says, wherever it is, is said here too; how it failed is said by us."""
    ended = threading.Event()

    def copy() -> None:
        heard, last = 0, False
        while not last:
            last = ended.wait(GLANCE)
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
