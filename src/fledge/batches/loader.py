"""Step → batch: the windows of that step, as tensors on the device.

    order     step, batch size   →  starts  [B]
    split     starts, context    →  rows    [B, T + 1]
    here      rows               →  inputs  [B, T]  and targets [B, T], one token later

The loader has no position of its own: `batch(step)` gives the same tensors whenever it is asked.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fledge.base.machine import Machine
from fledge.batches.order import Order
from fledge.datasets.shards import Split


@dataclass(frozen=True)
class Batch:
    inputs: Tensor  # [B, T]
    targets: Tensor  # [B, T]


@dataclass(frozen=True)
class Loader:
    split: Split
    order: Order
    batch_size: int  # sequences of a global step
    machine: Machine

    @property
    def share(self) -> int:
        """Sequences of a global step that are this rank's."""
        return self.batch_size // self.machine.company.size

    def micro_batches(self, number: int, size: int) -> list[Batch]:
        """This rank's share of global batch `number` (counted from 0), in pieces of `size` rows."""
        first = number * self.batch_size + self.machine.company.rank * self.share
        rows = self.split.rows(self.order.starts(first, self.share), self.order.context + 1)
        tokens = torch.from_numpy(rows)
        if self.machine.device == "cuda":
            tokens = tokens.pin_memory().to("cuda", non_blocking=True)
        else:
            tokens = tokens.to(self.machine.device)
        return [Batch(piece[:, :-1], piece[:, 1:]) for piece in tokens.split(size)]
