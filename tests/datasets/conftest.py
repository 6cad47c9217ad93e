"""Small texts in many parts, and executors that fail."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from fledge.datasets import executors, part, plan
from fledge.datasets.build import BuildSpec, build
from fledge.datasets.config import DataConfig
from fledge.datasets.executors import Executor, Task
from fledge.datasets.shards import Dataset, open_dataset
from fledge.datasets.spec import build_spec
from fledge.text import chunking, plain
from fledge.text.inputs import is_url
from fledge.tokenizers.config import TokenizerConfig

PARTS = 6
FILTERED = {"dedup": True, "min_length": 3}
CHAR = TokenizerConfig(kind="char")
SMALL = 64  # bytes: instead of 64 KiB, so that a short text has many chunks


@contextlib.contextmanager
def no_progress(label: str, total: int) -> Iterator[Any]:
    yield lambda _: None


class DatasetMaker:
    """Builds datasets from the texts in a folder, and records the parts that were made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[int] = []
        self._outs = 0

    def fresh(self) -> str:
        """A place where nothing is."""
        self._outs += 1
        return f"out-{self._outs}"

    def spec(
        self, *sources: object, out: str = "out", tokenizer: TokenizerConfig = CHAR, separator: str = "", **data: Any
    ) -> BuildSpec:
        named = [str(self.folder / str(source)) for source in sources]
        place = out if is_url(out) else str(self.folder / out)
        spec = build_spec(named, DataConfig(separator=separator, **data), tokenizer, place)
        return replace(spec, sources=[])  # the name of the folder is different in every test

    def __call__(self, spec: BuildSpec, executor: Executor = executors.in_process) -> dict[str, bytes]:
        def counted(task: Task, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
            for item, result in executor(task, items):
                self.made.append(item.number)
                yield item, result

        self.made = []
        build(spec, counted, no_progress, lambda _: None)
        return self.contents(spec)

    def contents(self, spec: BuildSpec) -> dict[str, bytes]:
        system, root = fsspec.core.url_to_fs(spec.out)
        return {name.removeprefix(f"{root}/"): system.cat_file(name) for name in system.find(root)}

    def dataset(self, spec: BuildSpec) -> Dataset:
        self(spec)
        return open_dataset(Path(spec.out))


@pytest.fixture
def make(tmp_path: Path) -> DatasetMaker:
    fsspec.filesystem("memory").store.clear()
    return DatasetMaker(tmp_path)


@pytest.fixture
def small_parts() -> Iterator[None]:
    """Each file becomes one part; fsync is off."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(plan, "MIN_PART", 1)
        patch.setattr(plan, "MAX_PART", 1)
        yield


@pytest.fixture(scope="module")
def small_chunks() -> Iterator[None]:
    """Short texts have as many chunks, slices and parts as long ones; fsync is off."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        for module in (chunking, part):
            patch.setattr(module, "CHUNK_SIZE", SMALL)
        patch.setattr(chunking, "WINDOW", 16)
        for module in (chunking, plain):
            patch.setattr(module, "READ_SIZE", 7)
        patch.setattr(plan, "MIN_PART", 2 * SMALL)
        patch.setattr(plan, "MAX_PART", 2 * SMALL)
        yield


class Cut(Exception):
    """Ends a build early."""


def stopped(after: int, error: BaseException | type[BaseException] = Cut) -> Executor:
    """An executor that raises after so many parts, scans included."""
    done = 0

    def run(task: Task, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        nonlocal done
        for item in items:
            if done == after:
                raise error
            done += 1
            yield item, task(item)

    return run


def idle(task: Task, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    assert not items, "nothing is left to be made"
    return iter(())


@pytest.fixture
def poems(tmp_path: Path, small_parts: None) -> Path:
    """One file per part; the last equals the first."""
    folder = tmp_path / "poems"
    folder.mkdir()
    for number in range(PARTS):
        (folder / f"{number}.txt").write_text(f"poem: {'la ' * (number % (PARTS - 1))}und Käse 🦆\n")
    return folder
