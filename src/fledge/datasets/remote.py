"""A dataset at a URL → the same in the cache of this machine, every file checked by its hash.

A shard that is here already, and whole, is not fetched again; what is fetched appears only when it is right.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fledge.base.errors import UserError
from fledge.base.files import PARTIAL, cache_dir, sha256, sync_file, write_atomic
from fledge.datasets.place import Remote
from fledge.datasets.shards import MANIFEST, TOKENIZER

Watch = Callable[[list[Any]], Iterable[Any]]


def fetch(url: str, watch: Watch = iter) -> Path:
    folder = cache_dir() / "datasets" / f"remote-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    place = Remote(url)
    content = place.read(MANIFEST)
    if content is None:
        raise UserError(f"'{url}' is not a prepared dataset", f"make one: fledge prepare SOURCE --out {url}")
    try:
        manifest = json.loads(content)
        files = [(info["file"], info["sha256"]) for split in manifest["splits"].values() for info in split["shards"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"the dataset's manifest is damaged: '{url}/{MANIFEST}'", "prepare the dataset anew") from None
    for file, expected in watch(files):
        path = folder / file
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"the dataset names a file outside its folder: '{file}'", "do not use this dataset")
        if not (path.is_file() and sha256(path) == expected):
            _fetch_checked(place, file, expected, path)
    write_atomic(folder / TOKENIZER, place.read(TOKENIZER) or b"")
    write_atomic(folder / MANIFEST, content)
    return folder


def _fetch_checked(place: Remote, file: str, expected: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=path.parent) as staging:
        fetched = Path(staging) / path.name
        if not place.fetch(file, fetched) or sha256(fetched) != expected:
            raise UserError(f"the shard '{place.url}/{file}' is missing or damaged", "prepare the dataset anew")
        sync_file(fetched)
        fetched.replace(path)
