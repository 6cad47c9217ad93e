"""Step → batch, the same whichever rank computes which part of it."""

import gc
import threading

import numpy as np
import pytest
import torch
from torch import Tensor

from fledge.batches.loader import Loader, Prefetcher, WindowReader
from fledge.batches.sampler import WindowSampler
from fledge.core.device import Machine
from fledge.core.distributed import World
from fledge.datasets.shards import Split

CONTEXT, BATCH = 8, 8
IDS = np.random.default_rng(0).integers(0, 500, 700).astype(np.uint16)
SPLIT = Split("train", [IDS[:300], IDS[300:]], [np.array([0]), np.array([0])])
ORDER = WindowSampler(len(SPLIT), CONTEXT, CONTEXT, seed=5)


def loader(rank: int = 0, world_size: int = 1) -> Loader:
    return Loader(WindowReader(SPLIT, ORDER), BATCH, Machine("cpu", "float32", World(rank, world_size)))


def whole(step: int, world_size: int = 1, micro_batch: int = BATCH) -> tuple[Tensor, Tensor]:
    """Global batch `step`, put together again from every rank's micro-batches."""
    parts = [p for rank in range(world_size) for p in loader(rank, world_size).micro_batches(step, micro_batch)]
    return torch.cat([p.inputs for p in parts]), torch.cat([p.targets for p in parts])


def test_targets_are_the_inputs_one_token_later() -> None:
    inputs, targets = whole(0)
    assert inputs.shape == targets.shape == (BATCH, CONTEXT)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])


def test_rows_are_the_windows_of_the_sampler() -> None:
    inputs, targets = whole(3)
    for row, start in enumerate(ORDER.starts(3 * BATCH, BATCH)):
        assert inputs[row].tolist() == IDS[start : start + CONTEXT].tolist()
        assert targets[row].tolist() == IDS[start + 1 : start + CONTEXT + 1].tolist()


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("micro_batch", [1, 2, 3, 8])
@pytest.mark.parametrize("step", [0, 1, 12, 1000])
def test_batch_is_the_same_for_any_ranks_and_micro_batch(step: int, world_size: int, micro_batch: int) -> None:
    for one, other in zip(whole(step), whole(step, world_size, micro_batch), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 8])
def test_micro_batches_have_the_requested_size(micro_batch: int) -> None:
    sizes = [len(batch.inputs) for batch in loader().micro_batches(0, micro_batch)]
    assert sizes == [micro_batch] * (BATCH // micro_batch)


def test_same_step_gives_the_same_batch() -> None:
    one = loader()
    first = one.micro_batches(4, BATCH)[0].inputs
    one.micro_batches(9, BATCH)
    assert torch.equal(first, one.micro_batches(4, BATCH)[0].inputs)


def test_next_batch_is_prefetched_once() -> None:
    asked: list[int] = []
    there = threading.Event()

    def read(number: int) -> Tensor:
        asked.append(number)
        if number == 1:
            there.set()
        return torch.tensor(number)

    ahead = Prefetcher(read)
    assert ahead(0) == 0
    assert there.wait(10)  # nobody has asked for it yet
    assert [int(ahead(number)) for number in (1, 2, 2, 7, 3, 8)] == [1, 2, 2, 7, 3, 8]
    assert asked.count(1) == 1


def test_read_error_is_raised_when_requested() -> None:
    def read(number: int) -> Tensor:
        if number:
            raise OSError("the disk is gone")
        return torch.tensor(number)

    ahead = Prefetcher(read)
    assert ahead(0) == 0
    with pytest.raises(OSError, match="gone"):
        ahead(1)


def test_prefetch_thread_ends_with_its_object() -> None:
    before = set(threading.enumerate())
    ahead = Prefetcher(torch.tensor)
    ahead(0)
    (thread,) = set(threading.enumerate()) - before
    del ahead
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()
