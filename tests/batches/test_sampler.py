"""Which window is sample n."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.batches.sampler import WindowSampler, permute, shuffled, unpermute
from fledge.core.errors import UserError

# Runs that exist were trained in this order: a change here breaks their resuming.
KNOWN = [603, 419, 203, 747, 227, 859, 83, 75]

seeds = st.integers(0, 2**63 - 1)


@st.composite
def orders(draw: st.DrawFn) -> WindowSampler:
    context = draw(st.integers(1, 40))
    return WindowSampler(context + draw(st.integers(1, 600)), context, draw(st.integers(1, 60)), draw(seeds))


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_permutation_is_one_to_one(size: int, key: int) -> None:
    found = permute(np.arange(size, dtype=np.uint64), size, np.full(size, key, dtype=np.uint64))
    assert sorted(found.tolist()) == list(range(size))


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_unpermute_is_the_inverse(size: int, key: int) -> None:
    numbers, keys = np.arange(size, dtype=np.uint64), np.full(size, key, dtype=np.uint64)
    assert unpermute(permute(numbers, size, keys), size, keys).tolist() == numbers.tolist()


@given(orders(), st.integers(0, 300), st.data())
def test_samples_with_a_token_are_what_a_scan_finds(order: WindowSampler, count: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, order.tokens - 1))
    stop = data.draw(st.integers(first + 1, order.tokens))
    expected = [
        (number, start)
        for number, start in enumerate(order.starts(0, count).tolist())
        if any(first <= target < stop for target in range(start + 1, start + order.context + 1))
    ]
    numbers, starts = order.samples_with(first, stop, count)
    assert list(zip(numbers.tolist(), starts.tolist(), strict=True)) == expected


@given(orders(), st.integers(0, 5))
def test_epoch_visits_each_window_once(order: WindowSampler, epoch: int) -> None:
    starts = np.sort(order.starts(epoch * order.windows_per_epoch, order.windows_per_epoch))
    phase = starts[0]
    assert 0 <= phase < order.stride
    assert starts.tolist() == [phase + n * order.stride for n in range(order.windows_per_epoch)]


@given(orders(), st.integers(0, 10**15))
def test_windows_are_within_the_split(order: WindowSampler, first: int) -> None:
    starts = order.starts(first, 50)
    assert starts.min() >= 0
    assert starts.max() + order.context + 1 <= order.tokens


@given(orders(), st.integers(0, 10**9), st.integers(1, 40))
def test_sample_depends_on_its_number_only(order: WindowSampler, first: int, count: int) -> None:
    together = order.starts(first, count).tolist()
    assert together == [int(order.starts(first + n, 1)[0]) for n in range(count)]
    assert (
        together == WindowSampler(order.tokens, order.context, order.stride, order.seed).starts(first, count).tolist()
    )


@given(orders())
def test_epoch_has_all_windows_that_fit(order: WindowSampler) -> None:
    assert order.windows_per_epoch == max(1, (order.tokens - 1 - order.context) // order.stride)


def test_epochs_and_seeds_differ() -> None:
    order = WindowSampler(10_000, 32, 32, seed=1)
    first, second = (
        order.starts(0, order.windows_per_epoch),
        order.starts(order.windows_per_epoch, order.windows_per_epoch),
    )
    other = WindowSampler(10_000, 32, 32, seed=2).starts(0, order.windows_per_epoch)
    assert first.tolist() != second.tolist()
    assert first.tolist() != other.tolist()
    assert len({int(order.starts(n * order.windows_per_epoch, 1)[0]) % 32 for n in range(20)}) > 5


def test_order_is_uniform() -> None:
    order = WindowSampler(100_001, 10, 10, seed=7)
    places = order.starts(0, order.windows_per_epoch) // 10
    assert abs(np.corrcoef(places, np.arange(order.windows_per_epoch))[0, 1]) < 0.05
    assert (np.diff(places) == 1).sum() < 10


def test_order_never_changes() -> None:
    assert WindowSampler(1000, 8, 8, seed=1337).starts(0, 8).tolist() == KNOWN


@pytest.mark.parametrize(("tokens", "context"), [(0, 8), (1, 8), (8, 8), (256, 256)])
def test_too_short_split_is_refused(tokens: int, context: int) -> None:
    with pytest.raises(UserError) as caught:
        WindowSampler(tokens, context, context, 0)
    assert str(tokens) in caught.value.message
    assert str(context + 1) in caught.value.message


def test_split_of_one_window() -> None:
    assert WindowSampler(9, 8, 8, 0).starts(0, 3).tolist() == [0, 0, 0]


@given(st.integers(1, 300), st.integers(0, 5), seeds)
def test_examples_are_shuffled_anew_in_each_epoch(size: int, epoch: int, seed: int) -> None:
    order = shuffled(epoch * size, size, size, seed)
    assert sorted(order.tolist()) == list(range(size))
    assert order[-1:].tolist() == shuffled((epoch + 1) * size - 1, 1, size, seed).tolist()
    if size > 20:
        assert order.tolist() != shuffled((epoch + 1) * size, size, size, seed).tolist()
