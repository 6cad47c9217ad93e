"""A small share of a large text: only some of it is read, and some of that is held out."""

from pathlib import Path

import pytest

from fledge.datasets import plan
from fledge.datasets.cache import ensure_dataset
from fledge.datasets.config import DataConfig
from fledge.tokenizers.config import TokenizerConfig


def test_each_slice_of_one_long_document_has_a_held_out_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(plan, "MIN_PART", 1 << 20)
    text = "".join(f"line {number:07}\n" for number in range(1_800_000))
    (tmp_path / "long.txt").write_text(text)
    data = DataConfig(corpus=f"{tmp_path / 'long.txt'}:0.2", val=0.1)
    dataset = ensure_dataset(data, TokenizerConfig(kind="char", end_of_text=False))
    train, val = (dataset.split(name) for name in ("train", "val"))
    assert dataset.manifest["data"]["split_by"] == "tail"
    assert len(train) + len(val) == pytest.approx(0.2 * len(text), rel=0.15)
    assert len(val) == pytest.approx((len(train) + len(val)) / 10, rel=0.01)
    assert len(val.document_starts()) == len(train.document_starts()) > 3
