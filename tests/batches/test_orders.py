"""The orders beside the shuffled one: random with replacement, and sequential with a short last batch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fledge.batches.loader import Batch, Loader, WindowReader
from fledge.batches.orders import SAMPLERS, RandomSampler, SequentialSampler
from fledge.batches.sampler import EMPTY, WindowSampler
from fledge.core.device import Machine
from fledge.core.distributed import World
from fledge.core.errors import UserError
from fledge.datasets.shards import Split
from fledge.losses.cross_entropy import IGNORE

IDS = np.random.default_rng(0).integers(0, 13, 100).astype(np.uint16)
SPLIT = Split("train", [IDS[:30], IDS[30:]], [np.array([0]), np.array([0])])
KNOWN_RANDOM = [579, 188, 182, 86, 147, 941, 165, 308]


@st.composite
def samplers(draw: st.DrawFn) -> WindowSampler:
    context, kind = draw(st.integers(1, 40)), draw(st.sampled_from([RandomSampler, SequentialSampler]))
    tokens = context + draw(st.integers(1, 600))
    return kind(tokens, context, draw(st.integers(1, 60)), draw(st.integers(0, 2**63 - 1)), draw(st.integers(1, 9)))


@given(samplers(), st.integers(0, 300), st.data())
def test_samples_with_a_token_are_what_a_scan_finds(order: WindowSampler, count: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, order.tokens - 1))
    stop = data.draw(st.integers(first + 1, order.tokens))
    expected = [
        (number, start)
        for number, start in enumerate(order.starts(0, count).tolist())
        if start != EMPTY and any(first <= target < stop for target in range(start + 1, start + order.context + 1))
    ]
    numbers, starts = order.samples_with(first, stop, count)
    assert list(zip(numbers.tolist(), starts.tolist(), strict=True)) == expected


@given(samplers(), st.integers(0, 10**12), st.integers(1, 40))
def test_sample_depends_on_its_number_only(order: WindowSampler, first: int, count: int) -> None:
    together = order.starts(first, count)
    assert together.tolist() == [int(order.starts(first + n, 1)[0]) for n in range(count)]
    assert together.max() + order.context + 1 <= order.tokens


@given(samplers(), st.integers(0, 500))
def test_windows_are_counted(order: WindowSampler, samples: int) -> None:
    assert order.windows_in(samples) == (order.starts(0, samples) != EMPTY).sum()


def test_random_windows_begin_at_any_token_alike() -> None:
    order = RandomSampler(1000, 10, 10, seed=5)
    counts = np.bincount(order.starts(0, 99_000), minlength=990)
    assert len(counts) == 990  # the last window ends with the last token
    assert abs(counts - 100).max() < 50  # five standard deviations
    assert order.starts(0, 99).tolist() != order.starts(99, 99).tolist()
    assert order.starts(0, 99).tolist() != RandomSampler(1000, 10, 10, seed=6).starts(0, 99).tolist()


def test_random_order_never_changes() -> None:
    assert RandomSampler(1000, 8, 8, seed=1337).starts(0, 8).tolist() == KNOWN_RANDOM


def test_random_windows_are_found_among_millions(monkeypatch: pytest.MonkeyPatch) -> None:
    order = RandomSampler(200, 8, 8, seed=1)
    monkeypatch.setattr("fledge.batches.orders.SCANNED", 7)
    numbers, starts = order.samples_with(50, 51, 1000)
    assert starts.tolist() == order.starts(0, 1000)[numbers].tolist()
    assert len(numbers) == ((order.starts(0, 1000) >= 42) & (order.starts(0, 1000) <= 49)).sum()


def test_every_sequential_epoch_begins_with_the_first_token() -> None:
    order = SequentialSampler(100, 8, 8, seed=1, batch=4)
    epoch = [0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88]
    assert order.starts(0, 24).tolist() == [*epoch, *epoch]
    assert (order.windows_per_epoch, order.steps_per_epoch(4)) == (12, 3.0)


def test_last_batch_of_a_sequential_epoch_holds_what_is_left() -> None:
    order = SequentialSampler(100, 8, 8, seed=1, batch=5)
    assert order.starts(10, 6).tolist() == [80, 88, EMPTY, EMPTY, EMPTY, 0]
    assert order.steps_per_epoch(5) == 3.0
    assert order.samples_with(1, 2, 100)[0].tolist() == [0, 15, 30, 45, 60, 75, 90]


def test_steps_of_an_epoch() -> None:
    assert WindowSampler(100, 8, 8, 1).steps_per_epoch(4) == 11 / 4  # it leaves room for another phase
    assert RandomSampler(100, 8, 8, 1).steps_per_epoch(4) == 11 / 4
    assert SequentialSampler(100, 8, 8, 1, batch=8).steps_per_epoch(8) == 2.0
    assert SequentialSampler(9, 8, 8, 1, batch=8).steps_per_epoch(8) == 1.0


@pytest.mark.parametrize("kind", SAMPLERS.values())
def test_too_short_split_is_refused(kind: type[WindowSampler]) -> None:
    with pytest.raises(UserError, match="the training split has 8 tokens, but one context needs 9"):
        kind(8, 8, 8, 1)


def loaded(number: int, world_size: int, micro_batch: int = 2) -> list[list[Batch]]:
    order = SequentialSampler(len(SPLIT), 8, 8, seed=1, batch=8)
    ranks = [Machine("cpu", "float32", World(rank, world_size)) for rank in range(world_size)]
    return [Loader(WindowReader(SPLIT, order), 8, machine).micro_batches(number, micro_batch) for machine in ranks]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_missing_rows_have_ignored_targets_on_every_rank(world_size: int) -> None:
    batches = [batch for rank in loaded(1, world_size) for batch in rank]
    inputs = torch.cat([batch.inputs for batch in batches])
    targets = torch.cat([batch.targets for batch in batches])
    assert inputs.shape == targets.shape == (8, 8)
    for row, start in enumerate([64, 72, 80, 88]):
        assert targets[row].tolist() == IDS[start + 1 : start + 9].tolist()
    assert (targets[4:] == IGNORE).all()
