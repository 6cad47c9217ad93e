"""Datasets of other programs, read as they are.

    nanoGPT                 train.bin · val.bin                    uint16 ids only
    llm.c, modded-nanogpt   NAME_train_000001.bin · NAME_val_…     1,024 bytes of header, then uint16 ids

Neither contains its tokenizer, so the caller names it; every id must be in its vocabulary. Our own
format is in shards.py.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fledge.core.errors import UserError
from fledge.core.files import sha256
from fledge.datasets import shards
from fledge.datasets.shards import MANIFEST, SPLITS, Dataset, Split
from fledge.tokenizers.base import Tokenizer, fingerprint

LLMC_MAGIC = 20240520
LLMC_HEADER = 256  # int32 each: magic, version, number of ids, then zeros


def open_dataset_or_bin(folder: Path, given: Callable[[], Tokenizer | None]) -> Dataset:
    """Open a dataset, or a folder of `.bin` files with the tokenizer that made them."""
    files = [] if (folder / MANIFEST).exists() or not folder.is_dir() else sorted(folder.glob("*.bin"))
    if not files:
        return shards.open_dataset(folder)
    tokenizer = given()
    if tokenizer is None:
        raise UserError(
            f"'{folder}' contains token ids but no tokenizer",
            "name the tokenizer that made them: --tokenizer.kind gpt2, or --tokenizer.file tokenizer.json",
        )
    parts: dict[str, list[Path]] = {split: [f for f in files if split_of(f) == split] for split in SPLITS}
    if not parts["train"]:
        raise UserError(f"'{folder}' has no training split among its .bin files", "one needs 'train' in its name")
    manifest: dict[str, Any] = {"tokenizer": fingerprint(tokenizer), "splits": {}}
    splits = {}
    for name, paths in parts.items():
        opened = [read_bin(path, tokenizer.vocab_size) for path in paths]
        none = np.zeros(0, dtype=np.uint64)  # .bin files do not mark where documents begin
        splits[name] = Split(name, opened, [none for _ in opened])
        manifest["splits"][name] = {"shards": [{"file": path.name, "sha256": sha256(path)} for path in paths]}
    return Dataset(folder, tokenizer, splits, manifest)


def split_of(path: Path) -> str | None:
    words = re.split(r"[^a-z]+", path.stem.lower())
    return next((split for split in SPLITS if split in words), None)


def read_bin(path: Path, vocab_size: int) -> NDArray[Any]:
    """The ids of one file, memory-mapped; either format."""
    size = path.stat().st_size
    head = np.fromfile(path, dtype="<i4", count=3)
    skip = 0
    if len(head) == 3 and head[0] == LLMC_MAGIC:
        skip = 4 * LLMC_HEADER
        if head[1] != 1 or size != skip + 2 * int(head[2]):
            raise UserError(f"'{path}' is damaged, or has an unknown version", "download or make it again")
    if size % 2 or size == skip:
        raise UserError(f"'{path}' is not a file of uint16 ids", "download or make it again")
    ids = np.memmap(path, dtype="<u2", mode="r", offset=skip)
    if (largest := int(ids.max())) >= vocab_size:
        raise UserError(
            f"'{path}' contains the id {largest}, but the tokenizer has {vocab_size} tokens",
            "name the tokenizer that made it",
        )
    return ids
