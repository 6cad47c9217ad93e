"""Real processes that start in a moment: forked from one that has imported everything, and shot like any other.

    Child(command, words, environment, log=…)    `fledge WORDS`
    Child(work, …, log=…)                        any function, which is given its marks first, and is found by its name
    held=True                                    it stands still until `let_go`: for strace to take hold of it

While it works, a process tells in shared memory where it is: the phase, how often it came to each, how many steps are
done. The marks are put around the real functions from outside, and nothing waits for anything.
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

PHASES = ("start-up", "preparing", "compiling", "step", "evaluation", "sampling", "save", "prune", "end")
STEP = PHASES.index("step")
PATIENCE = 120  # seconds that nothing here can take

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["fledge.recipes.train", "fledge.recipes.resume", "torch._inductor", "house"])


class Marks:
    """Numbers in memory that both sides see."""

    def __init__(self) -> None:
        self.phases = CONTEXT.RawArray("q", 2)  # of training, and of whatever works beside it
        self.told = CONTEXT.RawArray("q", 3)  # finished steps, the last that was handed over to be saved, 1 + the first
        self.held = CONTEXT.RawArray("b", 2)  # it stands and waits; it may go
        self.entered = CONTEXT.RawArray("q", len(PHASES))
        self.spent = CONTEXT.RawArray("d", len(PHASES))  # seconds

    @property
    def phase(self) -> str:
        return PHASES[self.phases[1] or self.phases[0]]

    @property
    def steps(self) -> int:
        return int(self.told[0])

    @property
    def handed_over(self) -> int:
        """The last step that was to be saved: it is being written, and the one before it lies on the disk."""
        return int(self.told[1])

    @property
    def began(self) -> int | None:
        """The step that training began after; None before it began."""
        return self.told[2] - 1 if self.told[2] else None

    def length(self, phase: str) -> float:
        """How long one visit took, on average."""
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
            # Between two marks it is still the step that goes on, once there has been one.
            self.phases[beside] = STEP if number == STEP else before
            self.spent[number] += time.perf_counter() - begun


class Child:
    """One process, its marks, and what it said."""

    def __init__(self, work: Callable[..., object], *args: Any, log: Path, held: bool = False) -> None:
        self.marks, self.log = Marks(), log
        self.marks.held[1] = not held
        self.process: BaseProcess = CONTEXT.Process(target=_live, args=(self.marks, log, work, *args), daemon=True)
        self.process.start()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def wait(self) -> int:
        """How it ended, as a shell says it."""
        self.process.join(PATIENCE)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            raise AssertionError(f"it does not end: {self.said()}")
        return code if code >= 0 else 128 - code

    def is_ready(self) -> None:
        """Wait until a held child stands still: nothing but its work is left to do."""
        while not self.marks.held[0]:
            assert self.process.is_alive(), self.said()
            time.sleep(0.001)

    def let_go(self) -> None:
        self.marks.held[1] = True

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def comes_to(self, phase: str, visit: int) -> bool:
        """Wait for that visit of a phase; False when the process ends first."""
        number = PHASES.index(phase)
        while self.marks.entered[number] < visit:
            if not self.process.is_alive():
                return False
            time.sleep(0.0002)
        return True

    def signalled(self, phase: str, visit: int, later: float, number: int = signal.SIGKILL) -> bool:
        """Sent so many seconds after that visit began; False where the process was faster."""
        if not self.comes_to(phase, visit):
            return False
        time.sleep(later)
        if not self.process.is_alive():
            return False
        os.kill(self.pid, number)
        return True


def _live(marks: Marks, log: Path, work: Callable[..., object], *args: Any) -> None:
    """In the new process."""
    import torch

    with log.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    torch.set_num_threads(1)  # nobody wants more here, and the nursery has started none that a fork could lose
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
    with marks.at("start-up"):
        _mark_everything(marks)
        return main(words)


def _mark_everything(marks: Marks) -> None:
    from fledge.checkpoint import store
    from fledge.recipes import train
    from fledge.tracking.tracker import Tracker
    from fledge.training.compiled import CompiledLoss
    from fledge.training.step import TrainStep
    from fledge.training.trainer import Trainer

    for place, name, phase in (
        (train, "ensure_dataset", "preparing"),
        (CompiledLoss, "_check", "compiling"),
        (Trainer, "_judge", "evaluation"),
        (Trainer, "_sample", "sampling"),
        (store, "save", "save"),
        (store, "prune", "prune"),
        (Tracker, "close", "end"),
    ):
        setattr(place, name, _marked(getattr(place, name), marks, phase))
    stepper, go, save = TrainStep.__call__, Trainer.go, Trainer._save

    def step(self: TrainStep, number: int) -> Any:
        with marks.at("step"):
            result = stepper(self, number)
        marks.told[0] = result.step
        return result

    def begin(self: Trainer, state: Any = None) -> Any:
        marks.told[2] = 1 + (state.step if state else 0)
        return go(self, state)

    def hand_over(self: Trainer, number: int, *rest: Any) -> None:
        save(self, number, *rest)
        marks.told[1] = number

    TrainStep.__call__, Trainer.go, Trainer._save = step, begin, hand_over  # type: ignore[method-assign]


def _marked(function: Callable[..., Any], marks: Marks, phase: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with marks.at(phase):
            return function(*args, **kwargs)

    return call
