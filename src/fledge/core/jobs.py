"""Runs a recipe in a process of its own: output goes to a log file, the result is the same exit status as the command.

    job = Job(partial(train, …), folder / "trial-1.log", preload=["fledge.recipes.train"])
    process = job.start(pipe)
    process.join();  exit_status(process)    # DONE, CRASHED, REFUSED, PEER_LOST, 128 + signal

The process exits with its parent, however that ends, and saves its work on SIGTERM.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from fledge.core import distributed
from fledge.core.errors import Interrupted, UserError, out_of_memory, to_user_error
from fledge.core.files import cache_dir
from fledge.core.signals import exit_with_parent, sigint_blocked, signal_number

DONE, CRASHED, REFUSED, PEER_LOST = 0, 1, 2, 3
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
KILLED = 128 + signal.SIGKILL
JOB_ATTEMPTS = 3  # starts of a job whose process is killed
STOP_TIMEOUT = 20.0  # seconds to save and exit after SIGTERM
ERROR, HINT = "error: ", "hint: "

FORKSERVER = multiprocessing.get_context("forkserver")  # forking this process would copy threads that hold locks


@dataclass(frozen=True)
class JobContext:
    """The directories that relative paths and the cache refer to, for a process elsewhere."""

    folder: Path = field(default_factory=Path.cwd)
    cache: Path = field(default_factory=lambda: cache_dir().absolute())

    def enter(self) -> None:
        os.chdir(self.folder)
        os.environ["FLEDGE_CACHE"] = str(self.cache)


@dataclass(frozen=True)
class Job:
    work: Callable[[], object]  # picklable
    log: Path
    context: JobContext = field(default_factory=JobContext)
    preload: Sequence[str] = ()  # modules that the fork server imports once, for all its children

    def run(self) -> int:
        """Run it in this process; returns the exit status."""
        with self.log.open("a", buffering=1) as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            try:
                self.context.enter()
                self.work()
            except Interrupted as stop:
                return stop.code
            except KeyboardInterrupt as stop:
                return 128 + signal_number(stop)
            except (UserError, OSError, MemoryError, RuntimeError) as error:
                return _log_error(error)
            return DONE

    def start(self, pipe: Connection, first: Callable[[], None] | None = None) -> BaseProcess:
        """Run it in a new process, which exits when the other end of `pipe` closes; `first` runs before everything."""
        FORKSERVER.set_forkserver_preload(list(self.preload))  # no effect once the fork server runs
        process = FORKSERVER.Process(target=_run_child, args=(self, pipe, first))
        with sigint_blocked():
            process.start()
        return process


def _log_error(error: UserError | OSError | MemoryError | RuntimeError) -> int:
    if isinstance(error, RuntimeError) and not out_of_memory(error):
        traceback.print_exc()
        return CRASHED
    user_error = error if isinstance(error, UserError) else to_user_error(error)
    sys.stderr.write(f"{ERROR}{user_error.message}\n{HINT}{user_error.hint}\n")
    return PEER_LOST if isinstance(error, distributed.PeerLost) else REFUSED


def _run_child(job: Job, pipe: Connection, first: Callable[[], None] | None) -> None:
    exit_with_parent(pipe)
    if first:
        first()
    sys.exit(job.run())


def failure_reason(log: Path) -> str:
    """The last error in the log, else its last line."""
    return _last_line(log, ERROR) or _last_line(log, "")


def logged_error(log: Path) -> UserError:
    """The last error in the log, with its hint."""
    return UserError(failure_reason(log), _last_line(log, HINT))


def _last_line(log: Path, prefix: str) -> str:
    """The last line with that prefix, without it."""
    with contextlib.suppress(OSError):
        lines = log.read_text(errors="replace").splitlines()
        return next((line.removeprefix(prefix) for line in reversed(lines) if line.startswith(prefix)), "")
    return ""


def exit_status(process: BaseProcess) -> int:
    """Of a process that has ended; 128 + the signal, where one killed it, as in a shell."""
    code = process.exitcode
    assert code is not None
    return code if code >= 0 else 128 - code


def stop_all(processes: Sequence[BaseProcess]) -> None:
    """SIGTERM to all, STOP_TIMEOUT to save, then SIGKILL."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(STOP_TIMEOUT)
        process.kill()
