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
from fledge.base.company import Company, gone, joined
from fledge.base.errors import Interrupted, UserError, asked_by
from fledge.base.files import new_folders
from fledge.checkpoint import run as run_folder
from fledge.checkpoint import store
from fledge.recipes.assembly import refuse_uneven
from fledge.recipes.errands import DONE, ERROR, HINT, STOPPED, TIDYING, Errand
from fledge.recipes.screen import say
from fledge.recipes.settings import Settings
from fledge.recipes.training import Outcome

FAILURES = 3  # that Ray makes good; one more is the end
GLANCE = 0.3  # seconds
STOP = "stop"  # a file that asks the first to save and end

Work = Callable[[argparse.Namespace, Company], object]


def refuse_idle(args: argparse.Namespace) -> None:
    for name in ("workers", "address"):
        if getattr(args, name) is not None and not args.launcher:
            raise UserError(f"--{name} is for --launcher ray", "add that, or leave this out")


def launch(work: Work, args: argparse.Namespace, name: str, settings: Settings) -> Outcome:
    """`work` done by as many processes as were asked for; each has `args`, and all see the same files."""
    cluster.refuse_missing("--launcher ray", "ray.train.torch")
    if args.address is not None:
        cluster.knock(args.address)
    # The cluster is left first: whoever still waits for its answer then gets one.
    with _meeting_place(args.runs) as folder, ThreadPoolExecutor(1) as pool, cluster.session(args.address):
        from fledge.recipes import placed

        gpus = cluster.gpus() if settings.train.device in ("auto", "cuda") else 0
        count = args.workers or gpus or cluster.machines()
        refuse_uneven(settings.train.batch, Company(size=count))
        each = Errand(partial(together, work, args), folder / "rank-0.log")
        trainer = placed.trainer(each, folder, count, on_gpus=gpus > 0)
        with _echoing(each.log):
            code = _code(pool.submit(trainer.fit), name, folder)
        if code not in (DONE, *STOPPED):
            raise each.refusal()
    if code in STOPPED:
        raise Interrupted(code - 128, f"fledge resume {name}")
    return _outcome(name, args.runs)


def together(work: Work, args: argparse.Namespace) -> None:
    with joined() as company:
        work(args, company)


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

    try:
        return int(fit.result().return_value)
    except KeyboardInterrupt as stop:
        say("stopping after this step, and saving")
        (folder / STOP).touch()
        with contextlib.suppress(Exception):
            fit.result(TIDYING)
        raise Interrupted(asked_by(stop), f"fledge resume {name}") from None
    except TrainingFailedError as error:
        reasons = [Errand(print, log).why() for log in sorted(folder.glob("rank-*.log"))]
        told = [reason for reason in reasons if reason and reason != gone().message]
        raise UserError(
            f"the training failed {FAILURES + 1} times: {next(iter(told), cluster.first_line(error))}",
            f"what was saved is whole: go on with fledge resume {name}",
        ) from error


def _outcome(name: str, runs: Path) -> Outcome:
    run = run_folder.find(name, runs)
    good = store.complete(run.checkpoints)
    best = store.best_of(good)
    step = max((saved.step for saved in good), default=0)
    return Outcome(run.name, str(run.folder), step, best.val_loss if best else None)


@contextlib.contextmanager
def _echoing(log: Path) -> Iterator[None]:
    """What the first says, wherever it is, is said here too; how it failed is said by us."""
    ended = threading.Event()

    def copy() -> None:
        seen = 0
        while True:
            last = ended.wait(GLANCE)
            lines = log.read_text(errors="replace").splitlines(keepends=True) if log.exists() else []
            whole = [line for line in lines if line.endswith("\n")]
            for line in whole[seen:]:
                if not line.startswith((ERROR, HINT)):
                    print(line, end="", file=sys.stderr, flush=True)
            seen = len(whole)
            if last:
                return

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
