"""A stream of ids as text, without half characters."""

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fledge.tokenizers.base import Ids
from fledge.tokenizers.streaming import TextStreamer


class BytesTokenizer:
    """A tokenizer whose tokens are arbitrary bytes, as in byte-level BPE."""

    kind = "bytes"
    end_of_text = None

    def __init__(self, tokens: list[bytes]) -> None:
        self.tokens = tokens

    @property
    def vocab_size(self) -> int:
        return len(self.tokens)

    def encode(self, text: str) -> Ids:
        return np.arange(len(text), dtype=np.uint32)

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(self.tokens[i] for i in ids).decode(errors="replace")

    def id_to_bytes(self, token: int) -> bytes:
        return self.tokens[token]

    def to_json(self) -> dict[str, Any]:
        return {}


def split_bytes(data: bytes, positions: list[int]) -> list[bytes]:
    cuts = [0, *sorted(position % (len(data) + 1) for position in positions), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(cuts)]


def streamed(tokens: list[bytes]) -> tuple[list[str], str]:
    stream = TextStreamer(BytesTokenizer(tokens))
    return [stream.add(i) for i in range(len(tokens))], stream.end()


def test_character_appears_with_its_last_byte() -> None:
    duck = "🦆".encode()
    assert streamed([b"a" + duck[:1], duck[1:3], duck[3:] + b"b"]) == (["a", "", "🦆b"], "")


@given(st.text(), st.lists(st.integers(0, 1000)))
def test_text_is_complete_for_any_split_of_its_bytes(text: str, positions: list[int]) -> None:
    parts, rest = streamed(split_bytes(text.encode(), positions))
    assert "".join(parts) == text
    assert rest == ""


@given(st.text(alphabet="aé漢🦆"), st.lists(st.integers(0, 1000)))
def test_text_so_far_holds_every_complete_character(text: str, positions: list[int]) -> None:
    tokens = split_bytes(text.encode(), positions)
    parts, _ = streamed(tokens)
    for count in range(len(tokens) + 1):
        complete = b"".join(tokens[:count]).decode(errors="ignore")
        assert "".join(parts[:count]) == complete


@given(st.binary(), st.lists(st.integers(0, 1000)))
def test_invalid_utf8_is_replaced_as_python_does(data: bytes, positions: list[int]) -> None:
    parts, rest = streamed(split_bytes(data, positions))
    assert "".join(parts) + rest == data.decode(errors="replace")
