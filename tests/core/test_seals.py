"""What is sealed comes back, and whatever was changed does not."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.checksums import checked_content, verify, with_checksum

CONTENT = st.dictionaries(
    st.text().filter(lambda key: key not in ("seal", "sealed")), st.integers() | st.text() | st.none()
)


@given(content=CONTENT, indent=st.none() | st.just(1))
def test_what_was_sealed_comes_back(content: dict[str, object], indent: int | None) -> None:
    raw = with_checksum(content, indent)
    assert checked_content(raw, indent) == {**content, "sealed": True}
    assert verify(raw, indent)


@given(data=st.data(), content=CONTENT)
def test_any_changed_bit_breaks_the_seal(data: st.DataObject, content: dict[str, object]) -> None:
    raw = bytearray(with_checksum(content))
    place = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[place // 8] ^= 1 << place % 8
    with pytest.raises(ValueError):  # noqa: PT011
        checked_content(bytes(raw))
    assert not verify(bytes(raw))


@given(raw=st.binary() | st.sampled_from([b"[]", b"{}", b"null", b"1", b'"seal"', b'{"seal": 1}', b"[" * 10**5]))
def test_what_was_never_sealed_is_nothing_worse_than_a_broken_seal(raw: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        checked_content(raw)


@pytest.mark.parametrize("raw", [b"{}", b'{"a": 1}', b'{ "a":1 }'])
def test_what_was_written_before_there_were_seals_is_believed(raw: bytes) -> None:
    assert verify(raw)


def test_a_seal_that_was_taken_away_is_missed() -> None:
    raw = with_checksum({"a": 1})
    assert not verify(raw.replace(b'"seal"', b'"sead"'))
    assert not verify(b'{"a": 1, "sealed": true}')


def test_checkpoints_with_their_keys_in_alphabetical_order_are_known() -> None:
    """As they were written before: the seal stood in the middle, and no mark said that there was one."""
    content = {"step": 3, "files": {"b": "2", "a": "1"}}
    seal = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    raw = json.dumps({**content, "seal": seal}, sort_keys=True).encode()
    assert checked_content(raw) == content
