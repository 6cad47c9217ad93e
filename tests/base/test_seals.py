"""What is sealed comes back, and whatever was changed does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.base.seals import sealed, unsealed

CONTENT = st.dictionaries(st.text().filter(lambda key: key != "seal"), st.integers() | st.text() | st.none())


@given(content=CONTENT, indent=st.none() | st.just(1))
def test_what_was_sealed_comes_back(content: dict[str, object], indent: int | None) -> None:
    assert unsealed(sealed(content, indent), indent) == content


@given(data=st.data(), content=CONTENT)
def test_any_changed_bit_breaks_the_seal(data: st.DataObject, content: dict[str, object]) -> None:
    raw = bytearray(sealed(content))
    place = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[place // 8] ^= 1 << place % 8
    with pytest.raises(ValueError):  # noqa: PT011
        unsealed(bytes(raw))


@given(raw=st.binary() | st.sampled_from([b"[]", b"{}", b"null", b"1", b'"seal"', b'{"seal": 1}', b"[" * 10**5]))
def test_what_was_never_sealed_is_nothing_worse_than_a_broken_seal(raw: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        unsealed(raw)
