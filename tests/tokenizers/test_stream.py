"""Ids → text as it comes, never half a character."""

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fledge.tokenizers.base import Ids
from fledge.tokenizers.streaming import TextStreamer


class Pieces:
    """A tokenizer whose tokens are any pieces of bytes, as a byte-level BPE has them."""

    kind = "pieces"
    end_of_text = None

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    @property
    def vocab_size(self) -> int:
        return len(self.pieces)

    def encode(self, text: str) -> Ids:
        return np.arange(len(text), dtype=np.uint32)

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(self.pieces[i] for i in ids).decode(errors="replace")

    def id_to_bytes(self, token: int) -> bytes:
        return self.pieces[token]

    def to_json(self) -> dict[str, Any]:
        return {}


def cut(data: bytes, places: list[int]) -> list[bytes]:
    borders = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(borders)]


def streamed(pieces: list[bytes]) -> tuple[list[str], str]:
    stream = TextStreamer(Pieces(pieces))
    return [stream.add(i) for i in range(len(pieces))], stream.end()


def test_a_character_appears_with_its_last_byte() -> None:
    duck = "🦆".encode()
    assert streamed([b"a" + duck[:1], duck[1:3], duck[3:] + b"b"]) == (["a", "", "🦆b"], "")


@given(st.text(), st.lists(st.integers(0, 1000)))
def test_every_text_comes_out_whole_however_its_bytes_are_cut(text: str, places: list[int]) -> None:
    said, rest = streamed(cut(text.encode(), places))
    assert "".join(said) == text
    assert rest == ""


@given(st.text(alphabet="aé漢🦆"), st.lists(st.integers(0, 1000)))
def test_what_was_said_so_far_is_every_complete_character_and_no_half_one(text: str, places: list[int]) -> None:
    pieces = cut(text.encode(), places)
    said, _ = streamed(pieces)
    for count in range(len(pieces) + 1):
        complete = b"".join(pieces[:count]).decode(errors="ignore")
        assert "".join(said[:count]) == complete


@given(st.binary(), st.lists(st.integers(0, 1000)))
def test_bytes_that_are_no_text_are_shown_as_any_reader_shows_them(data: bytes, places: list[int]) -> None:
    said, rest = streamed(cut(data, places))
    assert "".join(said) + rest == data.decode(errors="replace")
