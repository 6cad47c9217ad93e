"""A recipe in a process of its own: how it ended, and what it said of that."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from fledge.core.distributed import peer_lost
from fledge.core.errors import Interrupted, UserError
from fledge.core.jobs import (
    CRASHED,
    DONE,
    FORKSERVER,
    KILLED,
    PEER_LOST,
    REFUSED,
    STOPPED,
    Job,
    JobContext,
    exit_status,
    failure_reason,
    logged_error,
)
from fledge.core.signals import Sigterm


def fail(error: BaseException) -> None:
    print("so far, so good")
    raise error


@pytest.mark.parametrize(
    ("work", "code"),
    [
        (partial(print, "well done"), DONE),
        (partial(fail, UserError("no such text", "name another")), REFUSED),
        (partial(fail, OSError(28, "full")), REFUSED),
        (partial(fail, RuntimeError("DefaultCPUAllocator: can't allocate memory")), REFUSED),
        (partial(fail, RuntimeError("a bug")), CRASHED),
        (partial(fail, peer_lost()), PEER_LOST),
        (partial(fail, Interrupted(signal.SIGTERM, "fledge resume bird")), 128 + signal.SIGTERM),
        (partial(fail, KeyboardInterrupt()), 128 + signal.SIGINT),
        (partial(fail, Sigterm()), 128 + signal.SIGTERM),
    ],
)
def test_exit_status_of_each_error(tmp_path: Path, work: Callable[[], object], code: int) -> None:
    assert Job(work, tmp_path / "log").run() == code


def test_output_and_error_are_in_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    for what in ("first", "second"):
        Job(partial(fail, UserError(what, f"mend the {what}")), log).run()
    assert log.read_text().count("so far, so good") == 2
    assert capsys.readouterr().out == ""
    assert logged_error(log).message == failure_reason(log) == "second"
    assert logged_error(log).hint == "mend the second"


def test_crash_is_described_by_its_last_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert failure_reason(log) == ""
    Job(partial(fail, RuntimeError("a bug")), log).run()
    assert failure_reason(log) == "RuntimeError: a bug"


def test_missing_working_folder_is_refused(tmp_path: Path) -> None:
    job = Job(print, tmp_path / "log", JobContext(tmp_path / "nowhere", tmp_path))
    assert job.run() == REFUSED
    assert "nowhere" in failure_reason(job.log)


@pytest.fixture
def life() -> Iterator[tuple[Connection, Connection]]:
    theirs, ours = FORKSERVER.Pipe(duplex=False)
    with theirs, ours:
        yield theirs, ours


def wait_and_see(mark: Path) -> None:
    mark.touch()
    time.sleep(600)


def wait_for(mark: Path) -> None:
    end = time.monotonic() + 120
    while not mark.exists():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_process_exits_with_its_parent(tmp_path: Path, life: tuple[Connection, Connection]) -> None:
    process = Job(partial(wait_and_see, tmp_path / "begun"), tmp_path / "log").start(life[0])
    wait_for(tmp_path / "begun")
    life[1].close()
    process.join(60)
    assert exit_status(process) == 1


def test_signal_gives_the_exit_status(tmp_path: Path, life: tuple[Connection, Connection]) -> None:
    for number in (signal.SIGKILL, signal.SIGTERM):
        mark = tmp_path / number.name
        process = Job(partial(wait_and_see, mark), tmp_path / "log").start(life[0])
        wait_for(mark)
        assert process.pid
        os.kill(process.pid, number)
        process.join(60)
        assert exit_status(process) in (KILLED, *STOPPED)
        assert exit_status(process) == 128 + number


CTRL_C_BLOCKED = """
import signal
from functools import partial
from pathlib import Path
from fledge.core.jobs import FORKSERVER, Job

def look(result):
    result.write_text(str(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())))

if __name__ == "__main__":
    pipe, _ = FORKSERVER.Pipe()
    for name in ("first", "second"):
        Job(partial(look, Path(name)), Path("log")).start(pipe).join()
"""


def test_jobs_ignore_ctrl_c_from_their_first_moment(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(CTRL_C_BLOCKED)
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True)
    assert not done.stderr
    assert [(tmp_path / name).read_text() for name in ("first", "second")] == ["True", "True"]
