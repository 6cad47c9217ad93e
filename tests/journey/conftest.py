"""A tiny text, a tiny model, and the command line as a person uses it."""

import functools
import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fledge.cli.main import main
from fledge.training.step import BatchGradient, TrainStep
from forked import Forked
from tiny import TINY_TOML, remains, write_text


class Home:
    """A folder with a text, a configuration and runs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, folder / "runs"
        self.text = write_text(folder / "text")
        self.toml = folder / "tiny.toml"
        self.toml.write_text(TINY_TOML)

    def words(self, verb: str, *words: str) -> list[str]:
        return [verb, *words, "--runs", str(self.runs)]

    def training(self, name: str, *words: str) -> list[str]:
        text = () if "--data.path" in words else ("--data.corpus", str(self.text))
        return self.words("train", str(self.toml), "--run", name, *text, *words)

    def train(self, name: str, *words: str) -> Path:
        assert main(self.training(name, *words)) == 0
        return self.runs / name

    def do(self, verb: str, *words: str) -> int:
        return main(self.words(verb, *words))

    def free(self) -> str:
        return f"run-{len(list(self.runs.glob('*')))}"

    def start(self, words: Sequence[str]) -> Forked:
        """As a process of its own, to be killed or asked to stop."""
        return Forked(words)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    return Home(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home with one finished run, 'bird', that its tests only read."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEDGE_CACHE", str(folder / "cache"))
        home = Home(folder)
        home.train("bird", "--train.steps", "40", "--train.eval_every", "20", "--train.save_every", "20")
        yield home


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., dict[str, Any]]]:
    """What remains of a run with these settings that nobody disturbed; trained once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEDGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        home = Home(tmp_path_factory.mktemp("unbroken"))

        @functools.cache
        def train(*words: str) -> dict[str, Any]:
            return remains(home.train(home.free(), *words))

        yield train


@pytest.fixture
def own(trained: Home, tmp_path: Path) -> Home:
    """The same, for a test that changes it."""
    copy = object.__new__(Home)
    copy.__dict__.update(trained.__dict__)
    copy.folder, copy.runs = tmp_path, tmp_path / "runs"
    shutil.copytree(trained.runs, copy.runs)
    return copy


@pytest.fixture
def outcome_of() -> Callable[[Path], dict[str, Any]]:
    return remains


@pytest.fixture
def ended() -> Callable[..., tuple[int, str]]:
    """Wait until a run has logged so many steps, send a signal, and return the exit status and what was said.

    `ready`: what must have happened besides.
    """

    def end(
        process: Forked,
        run: Path,
        step: int,
        number: int = signal.SIGKILL,
        ready: Callable[[], bool] = lambda: True,
    ) -> tuple[int, str]:
        deadline = time.monotonic() + 60
        metrics = run / "metrics.csv"
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < step + 2 or not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                pytest.fail(f"the run did not come so far: {process.communicate()[1]}")
            time.sleep(0.005)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
        return process.returncode, said

    return end


@pytest.fixture
def warnings_in() -> Callable[[str], list[str]]:
    """The warnings in what a command said, but that on the small validation split of these tests."""

    def find(said: str) -> list[str]:
        return [line for line in said.splitlines() if line.startswith("warning: ") and "validation split" not in line]

    return find


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Change the loss or the gradient of the given batches, whenever they are trained on."""

    def spoil(batches: set[int], change: Callable[[BatchGradient], BatchGradient] | None = None) -> None:
        usual = TrainStep._attempt

        def attempt(self: TrainStep, step: int) -> BatchGradient:
            found = usual(self, step)
            if self.skipped.batch(step) not in batches:
                return found
            return change(found) if change else replace(found, loss=found.loss * math.nan)

        monkeypatch.setattr(TrainStep, "_attempt", attempt)

    return spoil
