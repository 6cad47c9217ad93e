"""JSON with a checksum: unchanged content is returned, any change is detected."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.checksums import checked_content, verify, with_checksum

CONTENT = st.dictionaries(st.text().filter(lambda key: key != "checksum"), st.integers() | st.text() | st.none())


@given(content=CONTENT, indent=st.none() | st.just(1))
def test_content_round_trips(content: dict[str, object], indent: int | None) -> None:
    raw = with_checksum(content, indent)
    assert checked_content(raw, indent) == content
    assert verify(raw, indent)


@given(data=st.data(), content=CONTENT)
def test_any_changed_bit_is_detected(data: st.DataObject, content: dict[str, object]) -> None:
    raw = bytearray(with_checksum(content))
    place = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[place // 8] ^= 1 << place % 8
    with pytest.raises(ValueError):  # noqa: PT011
        checked_content(bytes(raw))
    assert not verify(bytes(raw))


@given(raw=st.binary() | st.sampled_from([b"[]", b"{}", b"1", b'"checksum"', b'{"checksum": 1}', b"[" * 10**5]))
def test_bytes_without_a_checksum_are_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        checked_content(raw)


def test_removed_or_renamed_checksum_is_detected() -> None:
    assert not verify(with_checksum({"a": 1}).replace(b'"checksum"', b'"checkstm"'))
    assert not verify(b'{"a": 1}')
