"""Step → batch: the samples of that step, as tensors on the device.

    read       first sample, count      →  Batch of this rank, on the CPU    (WindowReader: windows of a split)
    prefetch   the next batch is read in a thread while the model trains on this one
    micro_batches  Batch                →  micro-batches on the device

The loader has no state: `micro_batches(n, size)` gives the same tensors whenever it is called, since which samples
make up batch n is a pure function of n (see sampler.py).
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Generic, TypeVar

import torch
from torch import Tensor

from fledge.batches.sampler import EMPTY, WindowSampler
from fledge.core.device import Machine
from fledge.datasets.shards import Split
from fledge.losses.cross_entropy import IGNORE

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Rows to train on. `extra`: additional inputs of the objective (weights, advantages, …), name → [B, …]."""

    inputs: Tensor  # [B, T]
    targets: Tensor  # [B, T]
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same batch with every tensor changed."""
        extra = {name: change(tensor) for name, tensor in self.extra.items()}
        return Batch(change(self.inputs), change(self.targets), extra)

    def to(self, device: str) -> "Batch":
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def split(self, size: int) -> list["Batch"]:
        """Pieces of `size` rows; the last may have fewer."""
        starts = range(0, len(self.inputs), size)
        return [self.map(lambda tensor, start=start: tensor[start : start + size]) for start in starts]  # type: ignore[misc]


@dataclass(frozen=True)
class WindowReader:
    """Samples → windows of a split, with the targets one token later. A row without a window has ignored targets."""

    split: Split
    sampler: WindowSampler

    def __call__(self, first: int, count: int) -> Batch:
        starts = self.sampler.starts(first, count)
        tokens = torch.from_numpy(self.split.rows(starts.clip(min=0), self.sampler.context + 1))  # [B, T + 1]
        inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        targets[torch.from_numpy(starts == EMPTY)] = IGNORE
        return Batch(inputs, targets)


@dataclass(frozen=True)
class Loader:
    read: Callable[[int, int], Batch]  # first sample, count → batch on the CPU
    batch_size: int  # rows of a global batch
    machine: Machine

    @property
    def local_batch_size(self) -> int:
        """Rows of a global batch that belong to this rank."""
        return self.batch_size // self.machine.world.size

    def micro_batches(self, number: int, size: int) -> list[Batch]:
        """This rank's share of global batch `number` (counted from 0), in pieces of `size` rows."""
        return self._prefetcher(number).to(self.machine.device).split(size)

    @cached_property
    def _prefetcher(self) -> "Prefetcher[Batch]":
        return Prefetcher(self._read_local)

    def _read_local(self, number: int) -> Batch:
        first = number * self.batch_size + self.machine.world.rank * self.local_batch_size
        batch = self.read(first, self.local_batch_size)
        return batch.map(Tensor.pin_memory) if self.machine.device == "cuda" else batch


class Prefetcher(Generic[T]):
    """number → `read(number)`, while a thread reads the next number. The thread ends with this object."""

    def __init__(self, read: Callable[[int], T]) -> None:
        self._read, self._thread = read, ThreadPoolExecutor(max_workers=1)
        self._next: dict[int, Future[T]] = {}

    def __call__(self, number: int) -> T:
        known = self._next.pop(number, None)
        value = known.result() if known else self._read(number)
        if number + 1 not in self._next:  # already being read when the same number is asked for twice
            self._next = {number + 1: self._thread.submit(self._read, number + 1)}
        return value
