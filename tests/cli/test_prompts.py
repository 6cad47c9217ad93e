"""Any file is a list of prompts, or is refused with its line."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fledge.cli.prompts import read_prompts
from fledge.core.errors import UserError

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["prompt", "id"]), inner, max_size=2),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary() | st.text().map(str.encode), st.sampled_from([".txt", ".jsonl"]))
def test_any_bytes_are_prompts_or_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    file = tmp_path / f"prompts{suffix}"
    file.write_bytes(content)
    with contextlib.suppress(UserError):
        prompts = read_prompts(str(file))
        assert prompts
        assert all(prompt.strip() for prompt in prompts) or suffix == ".jsonl"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(JSON_VALUES, min_size=1, max_size=4))
def test_records_are_prompts_or_the_first_wrong_line_is_named(tmp_path: Path, values: list[object]) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(map(json.dumps, values)))
    good = [isinstance(value, dict) and isinstance(value.get("prompt"), str) for value in values]
    if all(good):
        assert read_prompts(str(file)) == [value["prompt"] for value in values]  # type: ignore[index]
    else:
        with pytest.raises(UserError, match=f"line {good.index(False) + 1} of"):
            read_prompts(str(file))


def test_only_newlines_end_a_prompt(tmp_path: Path) -> None:
    """JSON may hold U+2028 as it is."""
    prompts = ["a\u2028b", "c\x0cd\x85"]
    (tmp_path / "p.jsonl").write_text("\r\n".join(json.dumps({"prompt": it}, ensure_ascii=False) for it in prompts))
    (tmp_path / "p.txt").write_text("\n".join(prompts))
    assert read_prompts(str(tmp_path / "p.jsonl")) == prompts
    assert read_prompts(str(tmp_path / "p.txt")) == prompts
