"""A recipe done in a process of its own, whose words go into a log and whose end is an exit status, as a verb's is.

Such a process ends with the one that wants its work, however that one ends; and it can be asked to stop, by SIGTERM.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from fledge.core.distributed import PeerLost
from fledge.core.errors import Interrupted, UserError, from_os_error, out_of_memory
from fledge.core.files import cache_dir
from fledge.core.signals import exit_with_parent, sigint_blocked, signal_number

DONE, BROKEN, REFUSED, LEFT_ALONE = 0, 1, 2, 3
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
KILLED = 128 + signal.SIGKILL
TIDYING = 20.0  # seconds to save and end
ERROR, HINT = "error: ", "hint: "

FRESH = multiprocessing.get_context("forkserver")  # a fork of this one would copy threads in the middle of their work
FRESH.set_forkserver_preload(["fledge.recipes.resume", "fledge.recipes.train"])  # each finds torch imported


@dataclass(frozen=True)
class JobContext:
    """Where a worker on another machine must go to find what people name from here."""

    folder: Path = field(default_factory=Path.cwd)
    cache: Path = field(default_factory=lambda: cache_dir().absolute())

    def enter(self) -> None:
        os.chdir(self.folder)
        os.environ["FLEDGE_CACHE"] = str(self.cache)


@dataclass(frozen=True)
class Job:
    work: Callable[[], object]  # that another process can be told
    log: Path
    place: JobContext = field(default_factory=JobContext)

    def do(self) -> int:
        """Here and now."""
        with self.log.open("a", buffering=1) as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            try:
                self.place.enter()
                self.work()
            except Interrupted as stop:
                return stop.code
            except KeyboardInterrupt as stop:
                return 128 + signal_number(stop)
            except (UserError, OSError, MemoryError, RuntimeError) as error:
                return _told(error)
            return DONE

    def start(self, life: Connection, first: Callable[[], None] | None = None) -> BaseProcess:
        """As a process that lives no longer than the other end of `life` is open; `first` it does before all else."""
        process = FRESH.Process(target=_run_child, args=(self, life, first))
        with sigint_blocked():
            process.start()
        return process


def _told(error: UserError | OSError | MemoryError | RuntimeError) -> int:
    if isinstance(error, RuntimeError) and not out_of_memory(error):
        traceback.print_exc()
        return BROKEN
    mistake = error if isinstance(error, UserError) else from_os_error(error)
    print(f"{ERROR}{mistake.message}\n{HINT}{mistake.hint}")
    return LEFT_ALONE if isinstance(error, PeerLost) else REFUSED


def _run_child(errand: Job, life: Connection, first: Callable[[], None] | None) -> None:
    exit_with_parent(life)
    if first:
        first()
    sys.exit(errand.do())


def failure_reason(log: Path) -> str:
    """What one said last that has failed."""
    return _last(log, ERROR) or _last(log, "")


def refusal(log: Path) -> UserError:
    return UserError(failure_reason(log), _last(log, HINT))


def _last(log: Path, beginning: str) -> str:
    """Of the lines that begin so, the last, without that."""
    with contextlib.suppress(OSError):
        said = log.read_text(errors="replace").splitlines()
        return next((line.removeprefix(beginning) for line in reversed(said) if line.startswith(beginning)), "")
    return ""


def status(process: BaseProcess) -> int:
    """Of one that has ended; killed by a signal is 128 and its number."""
    code = process.exitcode
    assert code is not None
    return code if code >= 0 else 128 - code


def stop(processes: list[BaseProcess]) -> None:
    """They save what they have."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(TIDYING)
        process.kill()
