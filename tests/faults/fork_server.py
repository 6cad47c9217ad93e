"""Processes that start at once, forked from one that has imported everything, and that can be killed anywhere.

    Child(command, args, environment, log=…)     `fledge ARGS`
    Child(work, …, log=…)                        any importable function; its first argument is the `Marks`
    held=True                                    wait for `release`, so that strace can attach

While it runs, a process reports in shared memory the phase it is in, how often it entered each, and how many steps are
done. The marks are set by wrapping the real functions; nothing waits for them.
"""

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pretend

PHASES = ("start-up", "preparing", "compiling", "step", "evaluation", "sampling", "save", "prune", "end")
STEP = PHASES.index("step")
EXIT_TIMEOUT = 120  # seconds

# It has imported everything (clean_fork_server.py): an import after the fork would open source files, and so count
# among a child's system calls.
CONTEXT = multiprocessing.get_context("forkserver")


class Marks:
    """Numbers in memory that parent and child share."""

    def __init__(self) -> None:
        self.phases = CONTEXT.RawArray("q", 2)  # of the main thread, and of other threads
        self.counts = CONTEXT.RawArray("q", 3)  # finished steps, the last save started, 1 + the first step
        self.held = CONTEXT.RawArray("b", 2)  # it is waiting; it may continue
        self.entered = CONTEXT.RawArray("q", len(PHASES))
        self.spent = CONTEXT.RawArray("d", len(PHASES))  # seconds

    @property
    def phase(self) -> str:
        return PHASES[self.phases[1] or self.phases[0]]

    @property
    def steps(self) -> int:
        return int(self.counts[0])

    @property
    def last_save(self) -> int:
        """The last step whose save has started; the one before it is on disk."""
        return int(self.counts[1])

    @property
    def began(self) -> int | None:
        """The step that training started after; None before that."""
        return self.counts[2] - 1 if self.counts[2] else None

    def length(self, phase: str) -> float:
        """Mean seconds of one visit."""
        number = PHASES.index(phase)
        return self.spent[number] / max(1, self.entered[number])

    @contextlib.contextmanager
    def at(self, phase: str) -> Iterator[None]:
        beside = threading.current_thread() is not threading.main_thread()
        number, before, begun = PHASES.index(phase), self.phases[beside], time.perf_counter()
        self.phases[beside] = number
        self.entered[number] += 1
        try:
            yield
        finally:
            # After the first step, whatever is unmarked counts as the step.
            self.phases[beside] = STEP if number == STEP else before
            self.spent[number] += time.perf_counter() - begun


class Child:
    """One process, its marks and its output."""

    def __init__(self, work: Callable[..., object], *args: Any, log: Path, held: bool = False) -> None:
        self.marks, self.log = Marks(), log
        self.marks.held[1] = not held
        self.process: BaseProcess = CONTEXT.Process(target=_run, args=(self.marks, log, work, *args), daemon=True)
        self.process.start()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def wait(self) -> int:
        """The exit status, as a shell reports it."""
        self.process.join(EXIT_TIMEOUT)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            raise AssertionError(f"it does not exit: {self.output()}")
        return code if code >= 0 else 128 - code

    def wait_until_held(self) -> None:
        """Wait until a held child is waiting for `release`."""
        while not self.marks.held[0]:
            assert self.process.is_alive(), self.output()
            time.sleep(0.001)

    def release(self) -> None:
        self.marks.held[1] = True

    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait_for_phase(self, phase: str, visit: int) -> bool:
        """Wait for that visit of a phase; False if the process exits first."""
        number = PHASES.index(phase)
        while self.marks.entered[number] < visit:
            if not self.process.is_alive():
                return False
            time.sleep(0.0002)
        return True

    def send_signal_in(self, phase: str, visit: int, later: float, number: int = signal.SIGKILL) -> bool:
        """Send a signal `later` seconds after that visit began; False if the process has exited by then."""
        if not self.wait_for_phase(phase, visit):
            return False
        time.sleep(later)
        if not self.process.is_alive():
            return False
        os.kill(self.pid, number)
        return True


def _run(marks: Marks, log: Path, work: Callable[..., object], *args: Any) -> None:
    """In the new process."""
    import torch

    with log.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    torch.set_num_threads(1)  # a fork would lose the threads of a pool
    if not marks.held[1]:
        os.fsync = pretend.real_fsync  # strace is about to look at every system call
    marks.held[0] = True
    while not marks.held[1]:
        time.sleep(0.001)
    code = work(marks, *args)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    sys.exit(code)  # type: ignore[arg-type]


def command(marks: Marks, words: list[str], environment: dict[str, str]) -> int:
    from fledge.cli.main import main

    os.environ.update(environment)
    _wrap_phases(marks)  # before the phase begins: a signal must hit the command, not this harness
    with marks.at("start-up"):
        return main(words)


def _wrap_phases(marks: Marks) -> None:
    from fledge.checkpoint import store, thinning
    from fledge.recipes import train
    from fledge.tracking.tracker import Tracker
    from fledge.training.compiled import CompiledLoss
    from fledge.training.step import TrainStep
    from fledge.training.trainer import Trainer

    for place, name, phase in (
        (train, "ensure_dataset", "preparing"),
        (CompiledLoss, "_check", "compiling"),
        (Trainer, "_evaluate", "evaluation"),
        (Trainer, "_sample", "sampling"),
        (store, "save", "save"),
        (thinning, "prune", "prune"),
        (Tracker, "close", "end"),
    ):
        setattr(place, name, _marked(getattr(place, name), marks, phase))
    train_step, fit, save = TrainStep.__call__, Trainer.fit, Trainer._save

    def step(self: TrainStep, number: int) -> Any:
        with marks.at("step"):
            result = train_step(self, number)
        marks.counts[0] = result.step
        return result

    def begin(self: Trainer, state: Any = None) -> Any:
        marks.counts[2] = 1 + (state.step if state else 0)
        return fit(self, state)

    def hand_over(self: Trainer, number: int, *rest: Any, **how: Any) -> None:
        save(self, number, *rest, **how)
        marks.counts[1] = number

    TrainStep.__call__, Trainer.fit, Trainer._save = step, begin, hand_over  # type: ignore[method-assign]


def _marked(function: Callable[..., Any], marks: Marks, phase: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with marks.at(phase):
            return function(*args, **kwargs)

    return call
