""".bin files of nanoGPT and llm.c are read as they are; invalid ones are refused."""

from pathlib import Path

import numpy as np
import pytest

from fledge.core.errors import UserError
from fledge.datasets.external import LLMC_HEADER, LLMC_MAGIC, open_dataset_or_bin
from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.char import CharTokenizer

LETTERS = CharTokenizer("abcdefgh")
IDS = np.arange(1000) % 8


def letters() -> Tokenizer:
    return LETTERS


def plain(path: Path, ids: np.ndarray) -> None:
    path.write_bytes(ids.astype("<u2").tobytes())


def with_header(
    path: Path, ids: np.ndarray, magic: int = LLMC_MAGIC, version: int = 1, told: int | None = None
) -> None:
    header = np.zeros(LLMC_HEADER, dtype="<i4")
    header[:3] = LLMC_MAGIC, version, len(ids) if told is None else told
    path.write_bytes(header.tobytes() + ids.astype("<u2").tobytes())


def test_nanogpt_files_are_read(tmp_path: Path) -> None:
    plain(tmp_path / "train.bin", IDS)
    plain(tmp_path / "val.bin", IDS[:100])
    dataset = open_dataset_or_bin(tmp_path, letters)
    assert dataset.available_splits == ["train", "val"]
    assert dataset.split("train").read(0, 1000).tolist() == IDS.tolist()
    assert len(dataset.split("val")) == 100


def test_llmc_files_are_read_in_order_across_boundaries(tmp_path: Path) -> None:
    for number in (1, 2):
        with_header(tmp_path / f"fineweb_train_{number:06d}.bin", IDS[500 * (number - 1) : 500 * number])
    with_header(tmp_path / "fineweb_val_000000.bin", IDS[:64])
    dataset = open_dataset_or_bin(tmp_path, letters)
    assert dataset.split("train").read(490, 20).tolist() == IDS[490:510].tolist()
    assert len(dataset.split("val")) == 64


def test_changed_byte_changes_the_fingerprint(tmp_path: Path) -> None:
    plain(tmp_path / "train.bin", IDS)
    before = open_dataset_or_bin(tmp_path, letters).fingerprint
    assert open_dataset_or_bin(tmp_path, letters).fingerprint == before
    plain(tmp_path / "train.bin", IDS[::-1])
    assert open_dataset_or_bin(tmp_path, letters).fingerprint != before


def test_bin_files_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    plain(tmp_path / "train.bin", IDS)
    with pytest.raises(UserError) as refusal:
        open_dataset_or_bin(tmp_path, lambda: None)
    assert "--tokenizer.kind gpt2" in refusal.value.hint


@pytest.mark.parametrize(
    "write",
    [
        lambda path: plain(path, IDS + 1),
        lambda path: path.write_bytes(b"abc"),
        lambda path: path.write_bytes(b""),
        lambda path: with_header(path, IDS, version=2),
        lambda path: with_header(path, IDS, told=999),
        lambda path: with_header(path, IDS[:0]),
    ],
    ids=["outside the vocabulary", "odd", "empty", "version", "length", "nothing after the header"],
)
def test_invalid_bin_file_is_refused_by_name(tmp_path: Path, write) -> None:
    write(tmp_path / "train.bin")
    with pytest.raises(UserError, match=r"train\.bin"):
        open_dataset_or_bin(tmp_path, letters)


def test_folder_without_a_train_split_is_refused(tmp_path: Path) -> None:
    plain(tmp_path / "val.bin", IDS)
    with pytest.raises(UserError, match="training"):
        open_dataset_or_bin(tmp_path, letters)
