"""Step → batch: the windows of that step, as tensors on the device.

    order     step, batch size   →  starts  [B]
    split     starts, context    →  rows    [B, T + 1]
    here      rows               →  inputs  [B, T]  and targets [B, T], one token later

The loader has no position of its own: `batch(step)` gives the same tensors whenever it is asked. While one batch is
learned from, a thread reads the next; should another one be asked for, that is read then.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fledge.batches.sampler import WindowSampler
from fledge.core.device import Machine
from fledge.datasets.shards import Split


@dataclass(frozen=True)
class Batch:
    inputs: Tensor  # [B, T]
    targets: Tensor  # [B, T]


@dataclass(frozen=True)
class Loader:
    split: Split
    order: WindowSampler
    batch_size: int  # sequences of a global step
    machine: Machine

    @property
    def local_batch_size(self) -> int:
        """Sequences of a global step that are this rank's."""
        return self.batch_size // self.machine.world.size

    def micro_batches(self, number: int, size: int) -> list[Batch]:
        """This rank's share of global batch `number` (counted from 0), in pieces of `size` rows."""
        tokens = self._ahead(number).to(self.machine.device, non_blocking=True)
        return [Batch(piece[:, :-1].contiguous(), piece[:, 1:].contiguous()) for piece in tokens.split(size)]

    @cached_property
    def _ahead(self) -> "Prefetcher":
        return Prefetcher(self._read)

    def _read(self, number: int) -> Tensor:
        """[B, T + 1], where a GPU can fetch it by itself."""
        first = number * self.batch_size + self.machine.world.rank * self.local_batch_size
        tokens = torch.from_numpy(
            self.split.rows(self.order.starts(first, self.local_batch_size), self.order.context + 1)
        )
        return tokens.pin_memory() if self.machine.device == "cuda" else tokens


class Prefetcher:
    """number → what `read` gives, which is asked for the next number meanwhile. The thread ends with this object."""

    def __init__(self, read: Callable[[int], Tensor]) -> None:
        self._read, self._thread = read, ThreadPoolExecutor(max_workers=1)
        self._next: dict[int, Future[Tensor]] = {}

    def __call__(self, number: int) -> Tensor:
        known = self._next.pop(number, None)
        tokens = known.result() if known else self._read(number)
        if number + 1 not in self._next:  # else the same batch was asked for again; what else was read is dropped
            self._next = {number + 1: self._thread.submit(self._read, number + 1)}
        return tokens
