"""A dataset at a URL → the same in the cache of this machine, every file checked by its hash.

A shard that is here already, and whole, is not fetched again; what is fetched appears only when it is right. Several
processes may fetch the same at once. What the files mean is shards.py's to say.
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

Watch = Callable[[list[Any]], Iterable[Any]]


def fetch(url: str, watch: Watch = iter) -> Path:
    folder = cache_dir() / "datasets" / f"remote-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    place = RemoteStorage(url)
    manifest, tokenizer = place.read(MANIFEST), place.read(TOKENIZER)
    if manifest is None:
        raise UserError(f"'{url}' is not a prepared dataset", f"make one: fledge prepare SOURCE --out {url}")
    if tokenizer is None:
        raise UserError(f"'{url}/{TOKENIZER}' is missing", "prepare the dataset anew")
    for file, expected in watch(files_of(manifest, url)):
        if not SHARD.fullmatch(file):  # the manifest comes from outside: no path of its own making is followed
            raise UserError(f"'{url}' names a file that is no shard: '{file}'", "do not use this dataset")
        path = folder / file
        if not (path.is_file() and sha256(path) == expected):
            _fetch_checked(place, file, expected, path)
    write_atomic(folder / TOKENIZER, tokenizer)
    write_atomic(folder / MANIFEST, manifest)
    return folder


def files_of(manifest: bytes, url: str) -> list[tuple[str, str]]:
    """Every shard and its hash."""
    try:
        splits = json.loads(manifest)["splits"].values()
        return [(str(shard["file"]), str(shard["sha256"])) for split in splits for shard in split["shards"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"the dataset's manifest is damaged: '{url}/{MANIFEST}'", "prepare the dataset anew") from None


def _fetch_checked(place: RemoteStorage, file: str, expected: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=path.parent) as staging:
        fetched = Path(staging) / path.name
        if not place.fetch(file, fetched) or sha256(fetched) != expected:
            raise UserError(f"the shard '{place.url}/{file}' is missing or damaged", "prepare the dataset anew")
        sync_file(fetched)
        fetched.replace(path)
