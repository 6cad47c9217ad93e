"""The dataset on disk: folders of token shards, and how they are read.

    DIR/dataset.json         written last: what is here, with the SHA-256 of every file
    DIR/tokenizer.json       what the ids mean
    DIR/train/00000.tokens   one shard: header, ids, document starts          (val/, test/ likewise)

    header   64 bytes   magic "FLEDGE01" · bytes per id · number of ids · number of documents
    ids      uint16 or uint32, little-endian, document after document
    starts   uint64 each: where each document begins, counted in ids from the shard's start

Shards are memory-mapped: a dataset larger than memory costs no memory.
"""

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fledge.base.errors import UserError
from fledge.base.files import read_json, sha256, write_atomic
from fledge.tokens import tokenizer as tokenizers
from fledge.tokens.tokenizer import Tokenizer

MAGIC = b"FLEDGE01"
HEADER = struct.Struct("<8sIxxxxQQ")  # magic, bytes per id, ids, documents; padded to 64 bytes
HEADER_BYTES = 64
SHARD_TOKENS = 100_000_000
MANIFEST = "dataset.json"
SPLITS = ("train", "val", "test")


def id_type(vocab_size: int) -> np.dtype[Any]:
    """Two bytes an id where they are enough: ids run from 0 to vocab_size - 1."""
    return np.dtype("<u2") if vocab_size <= 65_536 else np.dtype("<u4")


@dataclass(frozen=True)
class ShardInfo:
    file: str  # relative to the dataset's folder
    tokens: int
    documents: int
    sha256: str


def write_shard(path: Path, documents: Sequence[NDArray[np.uint32]], vocab_size: int) -> ShardInfo:
    """One shard from the ids of its documents. The same documents always give the same bytes."""
    lengths = [len(ids) for ids in documents]
    starts = np.cumsum([0, *lengths[:-1]], dtype="<u8") if documents else np.zeros(0, dtype="<u8")
    ids = np.concatenate(documents) if documents else np.zeros(0, dtype=np.uint32)
    assert not len(ids) or int(ids.max()) < vocab_size, "an id outside the vocabulary"
    kind = id_type(vocab_size)
    header = HEADER.pack(MAGIC, kind.itemsize, len(ids), len(documents)).ljust(HEADER_BYTES, b"\0")
    write_atomic(path, header + ids.astype(kind).tobytes() + starts.tobytes())
    return ShardInfo(f"{path.parent.name}/{path.name}", len(ids), len(documents), sha256(path))


def write_split(folder: Path, split: str, documents: Iterable[NDArray[np.uint32]], vocab_size: int) -> list[ShardInfo]:
    """The shards of one split, each about SHARD_TOKENS long; a document is never cut."""
    infos: list[ShardInfo] = []
    waiting: list[NDArray[np.uint32]] = []
    count = 0
    for ids in documents:
        waiting.append(ids)
        count += len(ids)
        if count >= SHARD_TOKENS:
            infos.append(write_shard(folder / split / f"{len(infos):05d}.tokens", waiting, vocab_size))
            waiting, count = [], 0
    if waiting:
        infos.append(write_shard(folder / split / f"{len(infos):05d}.tokens", waiting, vocab_size))
    return infos


def write_manifest(
    folder: Path, tokenizer: Tokenizer, splits: dict[str, list[ShardInfo]], bytes_per_split: dict[str, int], source: str
) -> None:
    """The last file: a folder without it is not a dataset."""
    content = {
        "format": 1,
        "tokenizer": tokenizers.fingerprint(tokenizer),
        "vocab_size": tokenizer.vocab_size,
        "source": source,
        "splits": {
            name: {
                "tokens": sum(s.tokens for s in shards),
                "documents": sum(s.documents for s in shards),
                "bytes": bytes_per_split[name],
                "shards": [asdict(s) for s in shards],
            }
            for name, shards in splits.items()
        },
    }
    write_atomic(folder / MANIFEST, json.dumps(content, indent=1))


class Split:
    """The ids of one split as one long sequence, wherever its shards begin and end."""

    def __init__(self, name: str, shards: list[NDArray[Any]], documents: list[NDArray[Any]]) -> None:
        self.name = name
        self._shards = shards
        self._ends = np.cumsum([len(s) for s in shards], dtype=np.int64)
        self._documents = documents

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, start: int, length: int) -> NDArray[np.int64]:
        """`length` ids from `start`, across shard borders."""
        assert 0 <= start <= start + length <= len(self), (start, length, len(self))
        parts, shard = [], int(np.searchsorted(self._ends, start, side="right"))
        while length:
            begin = start - (int(self._ends[shard - 1]) if shard else 0)
            part = self._shards[shard][begin : begin + length]
            parts.append(part)
            start, length, shard = start + len(part), length - len(part), shard + 1
        return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)

    def rows(self, starts: Iterable[int], length: int) -> NDArray[np.int64]:
        """Windows of equal length, one a row: [len(starts), length]."""
        return np.stack([self.read(int(start), length) for start in starts])

    def document_starts(self) -> Iterator[int]:
        """Where each document begins, counted over the whole split."""
        offset = 0
        for shard, starts in zip(self._shards, self._documents, strict=True):
            yield from (offset + int(s) for s in starts)
            offset += len(shard)


@dataclass(frozen=True)
class Dataset:
    folder: Path
    tokenizer: Tokenizer
    splits: dict[str, Split]
    manifest: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Changes with any byte of any shard or of the tokenizer, and with nothing else."""
        shards = [(name, s["sha256"]) for name, split in self.manifest["splits"].items() for s in split["shards"]]
        return hashlib.sha256(json.dumps([self.manifest["tokenizer"], shards]).encode()).hexdigest()

    @property
    def held(self) -> list[str]:
        """The splits that hold enough to predict anything: two tokens."""
        return [name for name, split in self.splits.items() if len(split) > 1]

    def split(self, name: str) -> Split:
        if name not in self.held:
            held = ", ".join(self.held)
            raise UserError(f"the dataset '{self.folder}' has no '{name}' split", f"it holds: {held or 'nothing'}")
        return self.splits[name]


def open_dataset(folder: Path) -> Dataset:
    """A dataset that is whole: every shard present, of the right length, with the right hash."""
    if not (folder / MANIFEST).exists():
        raise UserError(f"'{folder}' is not a prepared dataset", "make one: fledge prepare SOURCE --out DIR")
    manifest = read_json(folder / MANIFEST, "the dataset's manifest")
    tokenizer = tokenizers.load(folder / "tokenizer.json")
    try:
        return _open(folder, manifest, tokenizer)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"the dataset's manifest is damaged: '{folder / MANIFEST}'", "prepare the dataset anew"
        ) from None


def _open(folder: Path, manifest: dict[str, Any], tokenizer: Tokenizer) -> Dataset:
    if manifest["format"] != 1:
        raise UserError(f"'{folder / MANIFEST}' has format {manifest['format']}", "this fledge reads format 1 only")
    if tokenizers.fingerprint(tokenizer) != manifest["tokenizer"]:
        raise UserError(
            f"'{folder / 'tokenizer.json'}' is not the tokenizer of this dataset", "prepare the dataset anew"
        )
    splits = {}
    for name, split in manifest["splits"].items():
        if name not in SPLITS:
            raise ValueError(name)
        infos = [ShardInfo(**info) for info in split["shards"]]
        opened = [_open_shard(folder, info, tokenizer.vocab_size) for info in infos]
        if (split["tokens"], split["documents"]) != (sum(i.tokens for i in infos), sum(i.documents for i in infos)):
            raise ValueError(name)
        splits[name] = Split(name, [ids for ids, _ in opened], [starts for _, starts in opened])
    return Dataset(folder, tokenizer, splits, manifest)


def _open_shard(folder: Path, info: ShardInfo, vocab_size: int) -> tuple[NDArray[Any], NDArray[Any]]:
    path = folder / info.file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"the dataset names a file outside its folder: '{info.file}'", "do not use this dataset")
    if not path.is_file() or sha256(path) != info.sha256:
        raise UserError(f"the shard '{path}' is missing or damaged", "prepare the dataset anew, or restore the file")
    itemsize, tokens, documents = id_type(vocab_size).itemsize, info.tokens, info.documents
    with path.open("rb") as file:
        header = file.read(HEADER.size)
    whole = path.stat().st_size == HEADER_BYTES + tokens * itemsize + 8 * documents
    if not whole or header != HEADER.pack(MAGIC, itemsize, tokens, documents):
        raise UserError(f"the shard '{path}' is not what the manifest says", "prepare the dataset anew")
    ids = (
        np.memmap(path, dtype=f"<u{itemsize}", mode="r", offset=HEADER_BYTES, shape=(tokens,))
        if tokens
        else np.zeros(0)
    )
    starts = np.fromfile(path, dtype="<u8", offset=HEADER_BYTES + tokens * itemsize, count=documents)
    if tokens and int(ids.max()) >= vocab_size:
        raise UserError(f"the shard '{path}' holds an id outside the vocabulary", "prepare the dataset anew")
    return ids, starts
