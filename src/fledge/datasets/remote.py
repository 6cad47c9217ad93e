"""Download a dataset from a URL into the local cache, and check every shard by its hash.

A shard that is in the cache already, undamaged, is not downloaded again. A shard appears only when its hash is right,
so several processes may download the same dataset at once. The files themselves are described in shards.py.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fledge.core.errors import UserError
from fledge.core.files import PARTIAL, cache_dir, sha256, sync_file, write_atomic
from fledge.datasets.shards import MANIFEST, SHARD, TOKENIZER
from fledge.datasets.storage import RemoteStorage

REBUILD = "prepare the dataset again"


def download_dataset(url: str, show_progress: Callable[[list[Any]], Iterable[Any]] = iter) -> Path:
    """The cache folder of the dataset. `show_progress` wraps the list of shards, as a progress bar does."""
    folder = cache_dir() / "datasets" / f"remote-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    storage = RemoteStorage(url)
    manifest, tokenizer = storage.read(MANIFEST), storage.read(TOKENIZER)
    if manifest is None:
        raise UserError(f"'{url}' is not a prepared dataset", f"make one: fledge prepare SOURCE --out {url}")
    if tokenizer is None:
        raise UserError(f"'{url}/{TOKENIZER}' is missing", REBUILD)
    for file, expected in show_progress(shard_hashes(manifest, url)):
        if not SHARD.fullmatch(file):  # the manifest is not trusted: a path in it may point anywhere
            raise UserError(f"'{url}' names a file that is not a shard: '{file}'", "do not use this dataset")
        path = folder / file
        if not (path.is_file() and sha256(path) == expected):
            _download_checked(storage, file, expected, path)
    write_atomic(folder / TOKENIZER, tokenizer)
    write_atomic(folder / MANIFEST, manifest)
    return folder


def shard_hashes(manifest: bytes, url: str) -> list[tuple[str, str]]:
    """File name and SHA-256 of every shard in the manifest."""
    try:
        splits = json.loads(manifest)["splits"].values()
        return [(str(shard["file"]), str(shard["sha256"])) for split in splits for shard in split["shards"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"the dataset's manifest is damaged: '{url}/{MANIFEST}'", REBUILD) from None


def _download_checked(storage: RemoteStorage, file: str, expected: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=path.parent) as folder:
        downloaded = Path(folder) / path.name
        if not storage.download(file, downloaded) or sha256(downloaded) != expected:
            raise UserError(f"the shard '{storage.url}/{file}' is missing or damaged", REBUILD)
        sync_file(downloaded)
        downloaded.replace(path)
