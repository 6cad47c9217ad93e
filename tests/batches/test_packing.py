"""Conversations in rows: none is lost, cut or mixed with another."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fledge.batches.packing import Conversation, PackedReader, pack
from fledge.losses.cross_entropy import IGNORE

ROOM = 12
lengths_of_rows = st.lists(st.integers(1, ROOM), min_size=1, max_size=40)


def conversation(places: int, seed: int) -> Conversation:
    chance = np.random.default_rng(seed)
    is_answer = chance.random(places + 1) < 0.5
    is_answer[-1] = True
    return Conversation(chance.integers(1, 99, places + 1).astype(np.int32), is_answer)


def reader(lengths: list[int], seed: int = 0) -> PackedReader:
    return PackedReader([conversation(places, n) for n, places in enumerate(lengths)], ROOM, seed)


@given(lengths_of_rows)
def test_everything_is_packed_once_and_fits(lengths: list[int]) -> None:
    rows = pack(lengths, ROOM, range(len(lengths)))
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    assert all(sum(lengths[number] for number in row) <= ROOM for row in rows)


@given(lengths_of_rows)
def test_no_two_rows_would_fit_into_one(lengths: list[int]) -> None:
    sums = sorted(sum(lengths[number] for number in row) for row in pack(lengths, ROOM, range(len(lengths))))
    assert len(sums) == 1 or sums[0] + sums[1] > ROOM


def test_rows_are_nearly_full() -> None:
    lengths = np.random.default_rng(1).integers(10, 200, 2000).tolist()
    assert len(pack(lengths, 256, range(2000))) * 256 * 0.97 < sum(lengths)


@given(lengths_of_rows)
def test_batch_holds_every_conversation_as_it_would_be_alone(lengths: list[int]) -> None:
    packed = reader(lengths)
    batch = packed.batch(range(len(packed.rows)))
    for row, numbers in enumerate(packed.rows):
        at = 0
        for number in numbers:
            one, places = packed.conversations[number], slice(at, at := at + lengths[number])
            assert batch.inputs[row, places].tolist() == one.ids[:-1].tolist()
            expected = [i if answers else IGNORE for i, answers in zip(one.ids, one.is_answer, strict=True)][1:]
            assert batch.targets[row, places].tolist() == expected
            assert batch.extra["positions"][row, places].tolist() == list(range(lengths[number]))
        assert (batch.targets[row, at:] == IGNORE).all()
        assert batch.extra["positions"][row, at:].tolist() == list(range(ROOM - at))
    assert packed.filled == sum(lengths) / (ROOM * len(packed.rows))


@given(lengths_of_rows, st.integers(0, 100), st.integers(1, 7))
def test_samples_are_a_pure_function_of_their_number(lengths: list[int], first: int, count: int) -> None:
    together, packed = reader(lengths)(first, count), reader(lengths)
    one_by_one = [packed(first + n, 1) for n in reversed(range(count))][::-1]
    assert torch.equal(together.inputs, torch.cat([each.inputs for each in one_by_one]))
    assert torch.equal(together.extra["positions"], torch.cat([each.extra["positions"] for each in one_by_one]))


def test_epoch_visits_every_row_once_in_another_order() -> None:
    packed = reader([7] * 20)
    epochs = [packed(20 * epoch, 20).inputs for epoch in range(2)]
    assert not torch.equal(epochs[0], epochs[1])
    assert sorted(epochs[0].tolist()) == sorted(epochs[1].tolist())
    assert not torch.equal(reader([7] * 20, seed=1)(0, 20).inputs, epochs[0])
