"""Prompts and references: from a file, with the line of each mistake, and cut from a split."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.errors import UserError
from fledge.datasets.shards import Split
from fledge.evaluation.references import cut_references, read_references
from fledge.tokenizers.char import CharTokenizer

TOKENIZER = CharTokenizer.train(["abcdefgh \n"])


def test_both_forms_are_read(tmp_path: Path) -> None:
    rows = [{"prompt": "ab", "reference": "cd"}, {"prompt": "", "references": ["a", "b"]}]
    path = tmp_path / "references.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    first, second = read_references(path, TOKENIZER)
    assert (first.prompt, first.texts) == ("ab", ("cd",))
    assert TOKENIZER.decode(first.prompt_tokens) == "ab"
    assert (second.prompt, second.texts, len(second.prompt_tokens)) == ("", ("a", "b"), 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a", "reference": "b"', "line 2 of .* is not JSON"),
        ("[1, 2]", 'line 2 of .* has no text "prompt"'),
        ('{"reference": "b"}', 'line 2 of .* has no text "prompt"'),
        ('{"prompt": 3, "reference": "b"}', 'line 2 of .* has no text "prompt"'),
        ('{"prompt": "a"}', 'line 2 of .* has neither a "reference"'),
        ('{"prompt": "a", "references": []}', 'line 2 of .* has neither a "reference"'),
        ('{"prompt": "a", "references": "b"}', 'line 2 of .* has neither a "reference"'),
        ('{"prompt": "a", "reference": " "}', "line 2 of .* has a reference that is empty"),
        ('{"prompt": "a", "references": ["b", 3]}', "line 2 of .* has a reference that is empty, or no text"),
        ('{"prompt": "a", "reference": NaN}', "line 2 of .* is not JSON"),
        ('{"prompt": "a", "reference": "\\ud800"}', "line 2 of"),
    ],
)
def test_mistake_names_its_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "references.jsonl"
    path.write_text('{"prompt": "a", "reference": "b"}\n' + line + "\n")
    with pytest.raises(UserError, match=message):
        read_references(path, TOKENIZER)


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_empty_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "empty").write_text(content)
    with pytest.raises(UserError, match="is empty"):
        read_references(tmp_path / "empty", TOKENIZER)
    with pytest.raises(UserError, match="no file"):
        read_references(tmp_path / "missing", TOKENIZER)


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=8), count=st.integers(1, 9), size=st.integers(1, 9))
def test_passages_are_cut_within_documents(lengths: list[int], count: int, size: int) -> None:
    ids = np.random.default_rng(1).integers(1, 9, sum(lengths)).astype(np.uint16)
    starts = np.cumsum([0, *lengths[:-1]]).astype(np.uint64)
    split = Split("val", [ids], [starts])
    documents = [
        TOKENIZER.decode(ids[start : start + length - 1]) for start, length in zip(starts, lengths, strict=True)
    ]
    if max(lengths) - 1 < size + 3:
        with pytest.raises(UserError, match="no document"):
            cut_references(split, TOKENIZER, count, size, 3)
        return
    found = cut_references(split, TOKENIZER, count, size, 3)
    assert len({each.prompt + each.texts[0] for each in found}) <= len(found) <= count
    for each in found:
        assert (len(each.prompt_tokens), len(TOKENIZER.encode(each.texts[0]))) == (size, 3)
        assert TOKENIZER.decode(each.prompt_tokens) == each.prompt
        assert any(each.prompt + each.texts[0] in document for document in documents)
