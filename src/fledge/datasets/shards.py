"""The dataset on disk: token shards, their manifest, and how they are read.

    DIR/dataset.json         written last: lists all shards, with their SHA-256 and its own
    DIR/tokenizer.json       what the ids mean
    DIR/train/00000.tokens   one shard: header, ids, document starts          (val/, test/ likewise)

    header   64 bytes   magic "FLEDGE01" · bytes per id · number of ids · number of documents
    ids      uint16 or uint32, little-endian, document after document
    starts   uint64 each: index of the first id of each document in the shard
             (a long document may continue in the next shard, and has no start there)

Shards are memory-mapped: a dataset larger than memory costs no memory.
"""

import hashlib
import json
import re
import struct
from array import array
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fledge.core.checksums import verify, with_checksum
from fledge.core.errors import UserError
from fledge.core.files import read_json, sha256
from fledge.tokenizers.base import Tokenizer, fingerprint, load_tokenizer

MAGIC = b"FLEDGE01"
HEADER = struct.Struct("<8sIxxxxQQ")  # magic, bytes per id, ids, documents; padded to 64 bytes
HEADER_BYTES = 64
MANIFEST = "dataset.json"
TOKENIZER = "tokenizer.json"
SPLITS = ("train", "val", "test")
PIECES = 50  # of a sample of a split
SHARD = re.compile(rf"({'|'.join(SPLITS)})/[0-9]+(-mixed)?\.tokens")  # names that fledge prepare gives


def id_type(vocab_size: int) -> np.dtype[Any]:
    """uint16 if every id of the vocabulary fits, else uint32."""
    return np.dtype("<u2") if vocab_size <= 65_536 else np.dtype("<u4")


@dataclass(frozen=True)
class ShardInfo:
    file: str  # relative to the dataset's folder
    tokens: int
    documents: int
    sha256: str


class ShardWriter:
    """Writes one shard as a stream, in constant memory. The same ids always give the same bytes."""

    def __init__(self, path: Path, vocab_size: int) -> None:
        self.path, self.kind = path, id_type(vocab_size)
        self.tokens = 0
        self.starts = array("Q")  # eight bytes each: a part may hold millions of short documents
        self._file = path.open("wb")
        self._file.write(bytes(HEADER_BYTES))

    def begin_document(self) -> None:
        self.starts.append(self.tokens)

    def add(self, ids: NDArray[np.uint32]) -> None:
        self._file.write(ids.astype(self.kind).data)
        self.tokens += len(ids)

    def close(self, name: str) -> ShardInfo:
        """Finish the shard. `name`: its path within the dataset."""
        self._file.write(np.array(self.starts, dtype="<u8").tobytes())
        self._file.seek(0)
        self._file.write(HEADER.pack(MAGIC, self.kind.itemsize, self.tokens, len(self.starts)))
        self._file.close()
        return ShardInfo(name, self.tokens, len(self.starts), sha256(self.path))


def manifest(
    tokenizer: Tokenizer, splits: dict[str, list[ShardInfo]], bytes_per_split: dict[str, int], facts: dict[str, Any]
) -> bytes:
    """The content of dataset.json. `facts`: key, source and counts of the build."""
    content = {
        "format": 1,
        "tokenizer": fingerprint(tokenizer),
        "vocab_size": tokenizer.vocab_size,
        **facts,
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
    return with_checksum(content, indent=1)


class Split:
    """The ids of one split as one sequence over all its shards."""

    def __init__(self, name: str, shards: list[NDArray[Any]], documents: list[NDArray[Any]]) -> None:
        self.name = name
        self._shards = shards
        self._ends = np.cumsum([len(s) for s in shards], dtype=np.int64)
        self._documents = documents

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, start: int, length: int) -> NDArray[np.int64]:
        """`length` ids from `start` on, across shard boundaries: [length]."""
        assert 0 <= start <= start + length <= len(self), (start, length, len(self))
        parts, shard = [], int(np.searchsorted(self._ends, start, side="right"))
        while length:
            begin = start - (int(self._ends[shard - 1]) if shard else 0)
            part = self._shards[shard][begin : begin + length]
            parts.append(part)
            start, length, shard = start + len(part), length - len(part), shard + 1
        return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)

    def sample(self, tokens: int) -> NDArray[np.int64]:
        """About so many tokens, in evenly spaced pieces; the whole split if it is no longer."""
        if len(self) <= tokens:
            return self.read(0, len(self))
        length = max(1, tokens // PIECES)
        starts = np.linspace(0, len(self) - length, PIECES).astype(np.int64)
        return np.concatenate([self.read(int(start), length) for start in starts])

    def rows(self, starts: Iterable[int], length: int) -> NDArray[np.int64]:
        """Windows of equal length: [len(starts), length]."""
        return np.stack([self.read(int(start), length) for start in starts])

    def at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The ids at these positions, in an array of the same shape."""
        shards = np.searchsorted(self._ends, positions, side="right")
        ids = np.empty_like(positions)
        for number in np.unique(shards).tolist():
            here = shards == number
            begin = int(self._ends[number - 1]) if number else 0
            ids[here] = self._shards[number][positions[here] - begin]
        return ids

    def documents_in(self, start: int, length: int) -> tuple[int, int]:
        """Index of the first and the last document with a token in this window."""
        return max(0, self._documents_begun(start) - 1), max(0, self._documents_begun(start + length - 1) - 1)

    def document_starts(self) -> NDArray[np.int64]:
        """The first token of each document."""
        begins = [0, *self._ends.tolist()]
        starts = [begin + each.astype(np.int64) for begin, each in zip(begins, self._documents, strict=False)]
        return np.concatenate(starts) if starts else np.zeros(0, dtype=np.int64)

    def _documents_begun(self, position: int) -> int:
        """How many documents begin at or before this token."""
        begins = [0, *self._ends.tolist()]
        return sum(
            int(np.searchsorted(starts, position - begin, side="right"))
            for begin, starts in zip(begins, self._documents, strict=False)
            if begin <= position
        )


@dataclass(frozen=True)
class Dataset:
    folder: Path
    tokenizer: Tokenizer
    splits: dict[str, Split]
    manifest: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Changes with the shards and the tokenizer, and with nothing else."""
        shards = [(name, s["sha256"]) for name, split in self.manifest["splits"].items() for s in split["shards"]]
        return hashlib.sha256(json.dumps([self.manifest["tokenizer"], shards]).encode()).hexdigest()

    @property
    def available_splits(self) -> list[str]:
        """The splits with at least two tokens, which a prediction needs."""
        return [name for name, split in self.splits.items() if len(split) > 1]

    def split(self, name: str) -> Split:
        if name not in self.available_splits:
            known = ", ".join(self.available_splits)
            raise UserError(f"the dataset '{self.folder}' has no '{name}' split", f"it has: {known or 'none'}")
        return self.splits[name]


def open_dataset(folder: Path) -> Dataset:
    """Open a dataset; every shard must exist with the right length and hash."""
    if not (folder / MANIFEST).exists():
        raise UserError(f"'{folder}' is not a prepared dataset", "make one: fledge prepare SOURCE --out DIR")
    manifest = read_json(folder / MANIFEST, "the dataset's manifest")
    damaged = UserError(f"the dataset's manifest is damaged: '{folder / MANIFEST}'", "prepare the dataset again")
    if not verify((folder / MANIFEST).read_bytes(), indent=1):
        raise damaged
    tokenizer = load_tokenizer(folder / TOKENIZER)
    try:
        return _open(folder, manifest, tokenizer)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise damaged from None


def _open(folder: Path, manifest: dict[str, Any], tokenizer: Tokenizer) -> Dataset:
    if manifest["format"] != 1:
        raise UserError(f"'{folder / MANIFEST}' has format {manifest['format']}", "this fledge reads format 1 only")
    if fingerprint(tokenizer) != manifest["tokenizer"]:
        raise UserError(f"'{folder / TOKENIZER}' is not the tokenizer of this dataset", "prepare the dataset again")
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
        raise UserError(f"the shard '{path}' is missing or damaged", "prepare the dataset again, or restore the file")
    ids, starts = read_shard(path, info, vocab_size)
    if len(ids) and int(ids.max()) >= vocab_size:
        raise UserError(f"the shard '{path}' holds an id outside the vocabulary", "prepare the dataset again")
    return ids, starts


def read_shard(path: Path, info: ShardInfo, vocab_size: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The ids of a shard, memory-mapped, and where its documents begin."""
    itemsize, tokens, documents = id_type(vocab_size).itemsize, info.tokens, info.documents
    with path.open("rb") as file:
        header = file.read(HEADER.size)
    whole = path.stat().st_size == HEADER_BYTES + tokens * itemsize + 8 * documents
    if not whole or header != HEADER.pack(MAGIC, itemsize, tokens, documents):
        raise UserError(f"the shard '{path}' does not match the manifest", "prepare the dataset again")
    ids = (
        np.memmap(path, dtype=f"<u{itemsize}", mode="r", offset=HEADER_BYTES, shape=(tokens,))
        if tokens
        else np.zeros(0)
    )
    return ids, np.fromfile(path, dtype="<u8", offset=HEADER_BYTES + tokens * itemsize, count=documents)
