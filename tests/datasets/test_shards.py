"""Token shards and the manifest on disk."""

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fledge.core.checksums import checked_content, with_checksum
from fledge.core.errors import UserError
from fledge.core.files import sha256
from fledge.datasets import shards
from fledge.datasets.shards import MANIFEST, Dataset, ShardInfo, ShardWriter, open_dataset
from fledge.tokenizers.base import save_tokenizer
from fledge.tokenizers.char import CharTokenizer
from tiny import document_starts

LETTERS = CharTokenizer("abcdefgh")
BORDERS = [65_535, 65_536, 65_537]


def characters(count: int) -> list[str]:
    """The first `count` characters that UTF-8 can encode."""
    return [chr(c) for c in range(count + 2048) if not 0xD800 <= c < 0xE000][:count]


def write_shard(path: Path, documents: list[list[int]], vocab_size: int) -> ShardInfo:
    writer = ShardWriter(path, vocab_size)
    for ids in documents:
        writer.begin_document()
        writer.add(np.array(ids, dtype=np.uint32))
    return writer.close(f"{path.parent.name}/{path.name}")


def make(
    folder: Path, splits: dict[str, list[list[int]]], tokenizer: CharTokenizer = LETTERS, per_shard: int = 100
) -> Path:
    """A dataset of these ids: split → documents → ids, with a number of documents per shard."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(tokenizer, folder / "tokenizer.json")
    written: dict[str, list[ShardInfo]] = {}
    for name, documents in splits.items():
        (folder / name).mkdir(exist_ok=True)
        written[name] = [
            write_shard(folder / name / f"{at:05d}.tokens", documents[at : at + per_shard], tokenizer.vocab_size)
            for at in range(0, len(documents), per_shard)
        ]
    content = shards.manifest(tokenizer, written, dict.fromkeys(splits, 0), {"source": "a test"})
    (folder / MANIFEST).write_bytes(content)
    return folder


def everything(dataset: Dataset) -> dict[str, list[int]]:
    return {name: split.read(0, len(split)).tolist() for name, split in dataset.splits.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "data", {"train": [[0, 1, 2], [3, 4]], "val": [[5, 6]], "test": []})


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = checked_content((folder / MANIFEST).read_bytes(), indent=1)
    change(content)
    (folder / MANIFEST).write_bytes(with_checksum(content, indent=1))


def reseal(folder: Path, file: str, content: bytes) -> None:
    """Replace a shard and put its hash into the manifest."""
    (folder / file).write_bytes(content)
    edit(folder, lambda m: m["splits"]["train"]["shards"][0].update(sha256=hashlib.sha256(content).hexdigest()))


@pytest.mark.parametrize("vocab_size", BORDERS)
def test_every_id_of_the_vocabulary_round_trips(tmp_path: Path, vocab_size: int) -> None:
    last = vocab_size - 1
    made = make(tmp_path / "data", {"train": [[0, last, 1], [last]]}, CharTokenizer(characters(vocab_size)))
    assert everything(open_dataset(made)) == {"train": [0, last, 1, last]}


@pytest.mark.parametrize(("vocab_size", "itemsize"), list(zip(BORDERS, [2, 2, 4], strict=True)))
def test_uint16_is_used_up_to_65536_tokens(tmp_path: Path, vocab_size: int, itemsize: int) -> None:
    info = write_shard(tmp_path / "x.tokens", [[vocab_size - 1]], vocab_size)
    assert info.tokens == 1
    content = (tmp_path / "x.tokens").read_bytes()
    assert len(content) == 64 + itemsize + 8
    assert int.from_bytes(content[64 : 64 + itemsize], "little") == vocab_size - 1


def test_shard_layout_is_as_documented(tmp_path: Path) -> None:
    write_shard(tmp_path / "x.tokens", [[7, 8], [9]], 10)
    content = (tmp_path / "x.tokens").read_bytes()
    header = struct.pack("<8sI4xQQ", b"FLEDGE01", 2, 3, 2).ljust(64, b"\0")
    assert content == header + struct.pack("<3H", 7, 8, 9) + struct.pack("<2Q", 0, 2)


def test_document_may_continue_in_the_next_shard(tmp_path: Path) -> None:
    made = make(tmp_path / "data", {"train": [[0, 1], [2, 3]]}, per_shard=1)
    writer = ShardWriter(made / "train" / "00001.tokens", LETTERS.vocab_size)
    writer.add(np.array([2], dtype=np.uint32))
    writer.begin_document()
    writer.add(np.array([3], dtype=np.uint32))
    info = writer.close("train/00001.tokens")
    edit(made, lambda m: m["splits"]["train"]["shards"][1].update(sha256=info.sha256))
    assert document_starts(open_dataset(made).splits["train"]) == [0, 3]


@settings(deadline=None, max_examples=40)
@given(
    documents=st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=6), max_size=12),
    per_shard=st.integers(1, 5),
    data=st.data(),
)
def test_read_crosses_shard_boundaries(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], per_shard: int, data: st.DataObject
) -> None:
    whole = [i for document in documents for i in document]
    made = make(tmp_path_factory.mktemp("data"), {"train": documents}, per_shard=per_shard)
    split = open_dataset(made).splits["train"]
    start = data.draw(st.integers(0, len(whole)))
    length = data.draw(st.integers(0, len(whole) - start))
    assert len(split) == len(whole)
    assert split.read(start, length).tolist() == whole[start : start + length]
    assert document_starts(split) == [sum(map(len, documents[:n])) for n in range(len(documents))]


def test_rows_are_windows_of_equal_length(folder: Path) -> None:
    split = open_dataset(folder).split("train")
    assert split.rows([0, 2], 3).tolist() == [[0, 1, 2], [2, 3, 4]]
    assert split.rows([0], 3).dtype == np.int64


def test_the_same_documents_give_the_same_bytes(tmp_path: Path) -> None:
    contents = {"train": [[0, 1], [2]], "val": [[3]]}
    a, b = make(tmp_path / "a", contents), make(tmp_path / "b", contents)
    for file in sorted(path.relative_to(a) for path in a.rglob("*") if path.is_file()):
        assert (a / file).read_bytes() == (b / file).read_bytes()


def test_missing_split_is_refused_with_those_that_exist(folder: Path) -> None:
    with pytest.raises(UserError, match="no 'test' split") as caught:
        open_dataset(folder).split("test")
    assert "train, val" in caught.value.hint


def test_fingerprint_changes_with_a_single_id(tmp_path: Path) -> None:
    one, other = (make(tmp_path / str(n), {"train": [[0, 1, n]]}) for n in (2, 3))
    assert open_dataset(one).fingerprint != open_dataset(other).fingerprint


def test_folder_without_a_manifest_is_refused(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    with pytest.raises(UserError, match="not a prepared dataset"):
        open_dataset(folder)


def test_missing_shard_is_refused_by_name(folder: Path) -> None:
    (folder / "val" / "00000.tokens").unlink()
    with pytest.raises(UserError, match=r"val/00000\.tokens"):
        open_dataset(folder)


@pytest.mark.parametrize("place", [0, 8, 12, 20, 64, 65, 70, -1])
def test_flipped_byte_in_a_shard_is_refused_by_name(folder: Path, place: int) -> None:
    path = folder / "train" / "00000.tokens"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"train/00000\.tokens"):
        open_dataset(folder)


@pytest.mark.parametrize("length", [0, 10, 64, 70])
def test_truncated_shard_is_refused_by_name(folder: Path, length: int) -> None:
    path = folder / "train" / "00000.tokens"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=r"train/00000\.tokens"):
        open_dataset(folder)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_byte_is_refused_or_changes_no_id(folder: Path, data: st.DataObject) -> None:
    before = everything(open_dataset(folder))
    path = data.draw(st.sampled_from(sorted(p for p in folder.rglob("*") if p.is_file())))
    content = path.read_bytes()
    place, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    path.write_bytes(content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :])
    try:
        assert everything(open_dataset(folder)) == before
    except UserError:
        pass
    finally:
        path.write_bytes(content)


def test_tokenizer_of_another_dataset_is_refused_by_name(folder: Path) -> None:
    save_tokenizer(CharTokenizer("hgfedcba"), folder / "tokenizer.json")
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        open_dataset(folder)


@pytest.mark.parametrize("absolute", [False, True])
def test_shard_path_outside_the_folder_is_refused(folder: Path, absolute: bool) -> None:
    outside = folder.parent / "outside.tokens"
    shutil.copy(folder / "train" / "00000.tokens", outside)
    name = str(outside) if absolute else "../outside.tokens"
    edit(folder, lambda m: m["splits"]["train"]["shards"][0].update(file=name))
    with pytest.raises(UserError, match="outside its folder"):
        open_dataset(folder)


def test_shard_link_outside_the_folder_is_refused(folder: Path) -> None:
    inside, outside = folder / "train" / "00000.tokens", folder.parent / "outside.tokens"
    inside.rename(outside)
    inside.symlink_to(outside)
    with pytest.raises(UserError, match="outside its folder"):
        open_dataset(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.clear(),
        lambda m: m.pop("tokenizer"),
        lambda m: m.pop("splits"),
        lambda m: m.update(splits=[]),
        lambda m: m.update(splits={"train": 5}),
        lambda m: m["splits"]["train"].pop("shards"),
        lambda m: m["splits"]["train"]["shards"][0].pop("sha256"),
        lambda m: m["splits"]["train"]["shards"][0].update(colour="red"),
        lambda m: m["splits"]["train"]["shards"][0].update(file=7),
        lambda m: m["splits"]["train"]["shards"][0].update(file="train"),
        lambda m: m["splits"]["train"]["shards"][0].update(tokens=4),
        lambda m: m["splits"]["train"]["shards"][0].update(documents=9),
        lambda m: m["splits"]["train"].update(tokens=99),
        lambda m: m.update(format=2),
    ],
    ids=range(14),
)
def test_changed_manifest_is_refused(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    edit(folder, change)
    with pytest.raises(UserError):
        open_dataset(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_manifest_that_is_not_an_object_is_refused(folder: Path, content: str) -> None:
    (folder / MANIFEST).write_text(content)
    with pytest.raises(UserError, match=r"dataset\.json"):
        open_dataset(folder)


def header(magic: bytes = b"FLEDGE01", itemsize: int = 2, tokens: int = 1, documents: int = 1) -> bytes:
    return struct.pack("<8sI4xQQ", magic, itemsize, tokens, documents).ljust(64, b"\0")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        header(magic=b"OTHER001") + bytes(10),
        header(itemsize=3) + bytes(11),
        header(itemsize=0) + bytes(8),
        header(tokens=2**60) + bytes(10),
        header(documents=2**60) + bytes(10),
        header(tokens=100) + bytes(10),
        header() + b"\xff\xff" + bytes(8),
    ],
    ids=["empty", "short", "magic", "three bytes", "no bytes", "vast", "vast starts", "too few", "id too large"],
)
def test_shard_with_a_wrong_header_is_refused(folder: Path, content: bytes) -> None:
    reseal(folder, "train/00000.tokens", content)
    with pytest.raises(UserError, match=r"train/00000\.tokens"):
        open_dataset(folder)


def test_manifest_has_the_hash_of_each_shard(folder: Path) -> None:
    for split in json.loads((folder / MANIFEST).read_text())["splits"].values():
        for shard in split["shards"]:
            assert shard["sha256"] == sha256(folder / shard["file"])
