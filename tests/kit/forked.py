"""`fledge` commands in processes of their own, forked from one that has imported everything: that saves seconds.

    process = Forked(["train", "demo"])     like subprocess.Popen, with the streams in files
    process.communicate(timeout=60)         what it said on stdout and on stderr

The environment, the folder and the signals are those of the caller, as in a process that Popen starts.
"""

import atexit
import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")


class Forked:
    """One command at work."""

    def __init__(self, words: Sequence[str]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.stdout, self.stderr = (Path(self._folder.name) / name for name in ("stdout", "stderr"))
        given = (list(words), dict(os.environ), str(Path.cwd()), str(self.stdout), str(self.stderr))
        self._process = CONTEXT.Process(target=_run, args=given)
        self._process.start()
        atexit.register(self.kill)  # what a failed test has left: multiprocessing would wait for it
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        """The exit status if it has ended: negative where a signal killed it."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("fledge", timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        return self.said(self.stdout), self.said(self.stderr)

    @staticmethod
    def said(stream: Path) -> str:
        return stream.read_text(errors="replace") if stream.exists() else ""


def start_function(file: str, name: str, environment: dict[str, str]) -> BaseProcess:
    """A process that calls a function without arguments of a test file."""
    process = CONTEXT.Process(target=_call, args=(file, name, environment), daemon=True)
    process.start()
    return process


def _call(file: str, name: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    runpy.run_path(file)[name]()


def _run(words: list[str], environment: dict[str, str], folder: str, stdout: str, stderr: str) -> None:
    """In the new process."""
    from fledge.cli.main import main

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, name in ((1, stdout), (2, stderr)):
        with open(name, "wb") as file:  # noqa: PTH123
            os.dup2(file.fileno(), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "CXX" in environment:  # torch reads it when it is imported
        from torch._inductor import config

        config.cpp.cxx = (None, environment["CXX"])
    sys.exit(main(words))
