"""Both readers of JSON, and both writers, agree."""

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core import fast_json

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc\u00e9"), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@pytest.fixture(scope="module")
def plain() -> Iterator[ModuleType]:
    """The module as it is without orjson."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "orjson", None)
        yield importlib.reload(fast_json)
    importlib.reload(fast_json)


@given(value=values, indent=st.booleans())
def test_same_bytes_and_same_values(plain: ModuleType, value: object, indent: bool) -> None:
    orjson = pytest.importorskip("orjson")
    written = plain.dumps(value, indent=indent)
    assert plain.loads(written) == orjson.loads(written) == value
    assert plain.loads(orjson.dumps(value)) == value


def test_tokenizer_files_do_not_depend_on_orjson(plain: ModuleType) -> None:
    orjson = pytest.importorskip("orjson")
    content = {"model": {"vocab": {"a": 0, "\u0120the": 1}, "merges": [["a", "b"]]}, "empty": [], "none": None}
    assert plain.dumps(content, indent=True) == orjson.dumps(content, option=orjson.OPT_INDENT_2)


@pytest.mark.parametrize("bad", [b"", b"{", b"NaN", b"[1,]", b"\xff", b'"\x00"', "{'a': 1}"])
def test_invalid_json_is_refused(plain: ModuleType, bad: bytes | str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        plain.loads(bad)
