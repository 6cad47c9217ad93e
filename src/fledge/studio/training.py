"""Start, stop and resume training from the page: `fledge train` and `fledge resume` as processes of their own.

A process belongs to its own session, so it goes on when the studio ends. What it prints goes to a file, and what is
known of it to another, in `.studio/` in the folder of runs; a studio that is started later finds them there.
"""

import contextlib
import json
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fledge.core.config import read_overrides
from fledge.core.errors import UserError
from fledge.core.files import is_file_locked, write_atomic
from fledge.core.formatting import printable
from fledge.planning.budget import parse_minutes
from fledge.recipes.request import resolve_request
from fledge.runs.names import DEFAULT_RUNS, check_run_name
from fledge.runs.run_folder import LOCK, free_name, open_run, refuse_existing
from fledge.runs.status import last_saved_step, stopped_early
from fledge.studio.processes import birth_of, stop_lock_holder, stop_process

FOLDER = ".studio"
SETTING = re.compile(r"[a-z_]+\.[a-z0-9_]+")
LOG_BYTES = 6000  # of the last output, shown on the page
END_SECONDS = 20.0  # a process that was stopped takes a moment to end, longer on a busy machine
FLEDGE = (sys.executable, "-P", "-m", "fledge")  # -P: a folder named fledge here is not the program


@dataclass(frozen=True)
class Job:
    """A process that the studio has started, and what became of it."""

    run: str
    command: str
    started: float  # seconds since 1970
    running: bool
    error: str | None  # what the command said was wrong
    output: str  # its last lines


@dataclass(frozen=True)
class Command:
    """What will be run, as a person would type it."""

    run: str
    command: str


@dataclass(frozen=True)
class Record:
    """Of a started process, as kept in a file."""

    run: str
    command: str
    started: float
    pid: int
    birth: str | None


@dataclass
class Training:
    """The processes that were started from the page, by this studio or an earlier one."""

    runs: Path
    _children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def folder(self) -> Path:
        return self.runs / FOLDER

    def file(self, run: str, ending: str) -> Path:
        return self.folder / f"{run.replace('/', '%2F')}{ending}"

    def train_words(
        self, words: Sequence[str], settings: Mapping[str, str], minutes: str, name: str, init: str
    ) -> tuple[str, list[str]]:
        """The run's name and the words of `fledge train`; refused by the same code that the command uses."""
        options = [f"--{setting_name(key)}={value}" for key, value in settings.items()]
        words = [word for word in words if word]
        for word in words:
            if word.startswith("-"):
                raise UserError(f"'{word}' begins with a dash", f"name a file like that as ./{word}")
        request = resolve_request(words, read_overrides(options), self.runs, init or None)
        if minutes:
            parse_minutes(minutes)
        if name:
            check_run_name(name)
            refuse_existing(self.runs / name)
        run = name or self.free_name(request.default_name)
        options += [f"--minutes={minutes}"] * bool(minutes) + [f"--init={init}"] * bool(init)
        return run, ["train", *words, f"--run={run}", *options]

    def free_name(self, wanted: str) -> str:
        name, number = free_name(self.runs, wanted), 1
        while (self.runs / name).exists() or self.is_running(name):
            number += 1
            name = f"{wanted}-{number}"
        return name

    def resume_words(self, run: str, steps: int | None) -> list[str]:
        """steps: a new length of the run; None: the rest of what was planned."""
        folder = open_run(run, self.runs)
        if folder.is_locked():
            raise UserError(f"'{folder.name}' is being trained already", "stop it first")
        last, early = folder.last_step(), stopped_early(folder)
        if steps is None and early:
            raise UserError(f"'{folder.name}' is finished: {early}", "give more steps")
        if steps is None and last_saved_step(folder) >= last:
            raise UserError(f"'{folder.name}' is finished: all its {last:,} steps are done", "give more steps")
        longer = [f"--train.steps={steps}", "--allow-changes"] if steps else []
        return ["resume", run, *longer, *(["--train.patience=null"] if early else [])]  # or it would not go on

    def describe(self, run: str, words: Sequence[str]) -> Command:
        elsewhere = [] if self.runs.resolve() == DEFAULT_RUNS.resolve() else [f"--runs={self.runs}"]
        return Command(run, shlex.join(["fledge", *words, *elsewhere]))

    def start(self, run: str, words: Sequence[str]) -> Command:
        command = self.describe(run, words)
        with self._lock:
            if not self.has_ended(run):
                raise UserError(f"'{run}' is being trained already", "stop it first, or choose another name")
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.file(run, ".log").open("wb") as log:
                child = subprocess.Popen(  # noqa: S603 (words that were checked, no shell)
                    [*FLEDGE, *words, f"--runs={self.runs}"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self._children[run] = child
            record = Record(run, command.command, time.time(), child.pid, birth_of(child.pid))
            try:
                write_atomic(self.file(run, ".json"), json.dumps(asdict(record)))
            except OSError:  # the disk is full, for one
                child.terminate()
                raise
        return command

    def stop(self, run: str) -> None:
        """The training saves a checkpoint and ends, some seconds later."""
        folder = self.runs / run
        if (child := self._children.get(run)) is not None and child.poll() is None:
            child.terminate()  # its id cannot be another's before `poll` has seen its end
        elif (record := self.record(run)) is not None and self.is_running(run):
            stop_process(record.pid, record.birth, run)
        elif (folder / LOCK).exists() and open_run(run, self.runs, verify=False).is_locked():
            stop_lock_holder(folder / LOCK, run)
        else:
            raise UserError(f"'{run}' is not being trained", "nothing is to be stopped")

    def is_running(self, run: str) -> bool:
        if (child := self._children.get(run)) is not None:
            return child.poll() is None
        record = self.record(run)
        return record is not None and record.birth is not None and birth_of(record.pid) == record.birth

    def has_ended(self, run: str) -> bool:
        """Waits for a process that has released the run already, as one that was stopped does before it ends."""
        deadline = time.monotonic() + END_SECONDS
        while self.is_running(run) and not is_file_locked(self.runs / run / LOCK) and time.monotonic() < deadline:
            time.sleep(0.05)
        return not self.is_running(run)

    def record(self, run: str) -> Record | None:
        return read_record(self.file(run, ".json"))

    def job(self, run: str) -> Job | None:
        """None: the studio has not started it."""
        if (record := self.record(run)) is None:
            return None
        running, output = self.is_running(run), tail(self.file(run, ".log"))
        return Job(run, record.command, record.started, running, None if running else said_error(output), output)

    def jobs(self) -> list[Job]:
        """The newest first."""
        records = filter(None, map(read_record, self.folder.glob("*.json")))
        found = [self.job(record.run) for record in records]
        return sorted((job for job in found if job), key=lambda job: -job.started)


def setting_name(name: str) -> str:
    if not SETTING.fullmatch(name):
        raise UserError(f"'{name}' is not the name of a setting", "settings are named section.key, such as optim.lr")
    return name


def read_record(file: Path) -> Record | None:
    with contextlib.suppress(OSError, ValueError, TypeError):
        values: dict[str, Any] = json.loads(file.read_bytes())
        record = Record(**values)
        if isinstance(record.run, str) and isinstance(record.pid, int) and isinstance(record.started, int | float):
            return record
    return None


def tail(log: Path) -> str:
    """The last lines of a command's output."""
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, 2) - LOG_BYTES, 0))
            content = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(printable(line.rpartition("\r")[2]) for line in content.splitlines()[-40:])


def said_error(output: str) -> str | None:
    """`error: …` and `hint: …` as one sentence; None: the command named none."""
    lines = output.split("\n")
    found = [place for place, line in enumerate(lines) if line.startswith("error: ")]
    if not found:
        return lines[-1] if "Traceback (most recent call last):" in lines else None
    following = lines[found[-1] + 1 : found[-1] + 2]
    hint = following[0].removeprefix("hint: ") if following and following[0].startswith("hint: ") else ""
    return "; ".join(filter(None, (lines[found[-1]].removeprefix("error: "), hint)))
