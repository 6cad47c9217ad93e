"""Conversations → rows of one length, several conversations in a row.

    row 0   <|user|> Hi <|end|> <|assistant|> Hello! <|end|> | <|user|> … | … | padding
    inputs     its tokens            targets    the next token where it is part of an answer, else IGNORE
    positions  0 1 2 3 4 5 0 1 …     of each token in its conversation: see model/packed.py

The last token of a conversation is a target only, so one of n tokens takes n - 1 places. Conversations are packed once,
and sample n is a row: a pure function of (seed, n).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from fledge.batches.loader import Batch
from fledge.batches.sampler import shuffled
from fledge.losses.cross_entropy import IGNORE


@dataclass(frozen=True)
class Conversation:
    ids: NDArray[np.int32]  # [n]
    is_answer: NDArray[np.bool_]  # [n]

    @property
    def places(self) -> int:
        return len(self.ids) - 1


def pack(lengths: Sequence[int], room: int, order: Sequence[int]) -> list[list[int]]:
    """Rows of `room` places: the numbers of what is in each. Best fit: the longest first, each into the fullest row.

    order: of equally long ones. With bit n of `rests` for the rows that have n places left, the fullest row with enough
    room is found at once.
    """
    rows, by_rest, rests = list[list[int]](), defaultdict[int, list[int]](list), 0
    for number in sorted(order, key=lambda number: -lengths[number]):
        length = lengths[number]
        assert 0 < length <= room, "longer than a row"
        if fitting := rests >> length:
            rest = length + (fitting & -fitting).bit_length() - 1
            row = by_rest[rest].pop()
            rests ^= (not by_rest[rest]) << rest
        else:
            rest, row = room, len(rows)
            rows.append([])
        rows[row].append(number)
        by_rest[rest - length].append(row)
        rests |= 1 << (rest - length)
    return rows


@dataclass(frozen=True)
class PackedReader:
    """First sample, count → Batch, for a Loader."""

    conversations: Sequence[Conversation]
    context: int  # places of a row
    seed: int

    @cached_property
    def rows(self) -> list[list[int]]:
        """The numbers of the conversations in each row."""
        count = len(self.conversations)
        order = [int(number) for number in shuffled(0, count, count, self.seed)]
        return pack([each.places for each in self.conversations], self.context, order)

    @property
    def filled(self) -> float:
        """The fraction of all places that is no padding."""
        return sum(each.places for each in self.conversations) / (len(self.rows) * self.context)

    def __call__(self, first: int, count: int) -> Batch:
        return self.batch(shuffled(first, count, len(self.rows), self.seed).tolist())

    def batch(self, rows: Sequence[int]) -> Batch:
        shape = len(rows), self.context
        inputs, targets, positions = torch.zeros(3, *shape, dtype=torch.long).unbind()
        for n, row in enumerate(rows):
            at = 0
            for conversation in (self.conversations[number] for number in self.rows[row]):
                ids, places = torch.from_numpy(conversation.ids), slice(at, at := at + conversation.places)
                inputs[n, places] = ids[:-1].long()
                targets[n, places] = ids[1:].where(torch.from_numpy(conversation.is_answer[1:]), IGNORE).long()
                positions[n, places] = torch.arange(conversation.places)
            targets[n, at:] = IGNORE
            positions[n, at:] = torch.arange(self.context - at)
        return Batch(inputs, targets, {"positions": positions})
