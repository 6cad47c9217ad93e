"""Small texts in many parts, and whatever can come between."""

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

CHAR = TokenizerConfig(kind="char")
SMALL = 64  # bytes: instead of a MiB, so that a short text has many cuts


@contextlib.contextmanager
def unwatched(label: str, total: int) -> Iterator[Any]:
    yield lambda _: None


class Maker:
    """Makes datasets of the texts in a folder, and remembers how many parts it took."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[int] = []
        self._outs = 0

    def fresh(self) -> str:
        """A place where nothing is."""
        self._outs += 1
        return f"out-{self._outs}"

    def order(
        self, *sources: object, out: str = "out", tokenizer: TokenizerConfig = CHAR, separator: str = "", **data: Any
    ) -> BuildSpec:
        named = [str(self.folder / str(source)) for source in sources]
        place = out if is_url(out) else str(self.folder / out)
        spec = build_spec(named, DataConfig(separator=separator, **data), tokenizer, place)
        return replace(spec, source="a test")  # and not what the folder is called

    def __call__(self, spec: BuildSpec, executor: Executor = executors.in_process) -> dict[str, bytes]:
        def counted(task: Task, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
            for item, result in executor(task, items):
                self.made.append(item.number)
                yield item, result

        self.made = []
        build(spec, counted, unwatched, lambda _: None)
        return self.contents(spec)

    def contents(self, spec: BuildSpec) -> dict[str, bytes]:
        system, root = fsspec.core.url_to_fs(spec.out)
        return {name.removeprefix(f"{root}/"): system.cat_file(name) for name in system.find(root)}

    def dataset(self, spec: BuildSpec) -> Dataset:
        self(spec)
        return open_dataset(Path(spec.out))


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    fsspec.filesystem("memory").store.clear()
    return Maker(tmp_path)


@pytest.fixture
def small_parts() -> Iterator[None]:
    """Each file is a part of its own; and nobody waits for a disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(plan, "MIN_PART", 1)
        patch.setattr(plan, "MAX_PART", 1)
        yield


@pytest.fixture(scope="module")
def small_pieces() -> Iterator[None]:
    """Cuts, slices and parts as in a text of many megabytes; and nobody waits for a disk."""
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
