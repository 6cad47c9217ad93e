"""Repositories of the Hugging Face Hub: data sets by their address, models by their name.

    hf://datasets/OWNER/NAME[@REVISION]/PATH    where PATH may be a glob
    OWNER/NAME                                  all files of a model

Two requests of the Hub are used: its list of a repository's files (in pages, with sizes and hashes) and the files
themselves. A list that was fetched before serves when there is no network. Downloads are download.py's.
"""

import hashlib
import json
import os
import re
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote, urljoin

from fledge.core.errors import UserError
from fledge.core.files import cache_dir, write_atomic
from fledge.text.download import HINT, ExpectedFile, RetryDownload, RetryPolicy, ask, fetch
from fledge.text.formats import is_readable_name

SCHEME = "hf://datasets/"
ADDRESS = re.compile(
    r"hf://datasets/(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<rev>refs(?:/|%2F)[\w.-]+(?:/|%2F)[\w.-]+|[^/@]+))?(?:/(?P<path>.*))?"
)


@dataclass(frozen=True)
class HubPath:
    """An address, taken apart."""

    repo: str
    revision: str
    path: str
    kind: Literal["datasets", "models"] = "datasets"

    @property
    def site(self) -> str:
        """Where its files are: models stand at the very top of the Hub."""
        return f"{endpoint()}/{'' if self.kind == 'models' else 'datasets/'}{self.repo}"


@dataclass(frozen=True)
class HubFile:
    """One file in a repository, as the Hub lists it."""

    place: HubPath
    size: int
    sha256: str  # of large files, which git keeps elsewhere
    blob: str  # of the others

    @property
    def hash(self) -> str:
        return self.sha256 or self.blob

    @property
    def name(self) -> str:
        revision = "" if self.place.revision == "main" else f"@{self.place.revision}"
        scheme = SCHEME if self.place.kind == "datasets" else "hf://"
        return f"{scheme}{self.place.repo}{revision}/{self.place.path}"


def endpoint() -> str:
    """Where the Hub is: $HF_ENDPOINT, else its own address."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def parse(url: str) -> HubPath:
    match = ADDRESS.fullmatch(url)
    if match is None:
        raise UserError(f"'{url}' is no data set on the Hub", "it reads hf://datasets/OWNER/NAME/path/to/file.parquet")
    return HubPath(match["repo"], unquote(match["rev"] or "main"), match["path"] or "")


def dataset_files(url: str, retry: RetryPolicy | None = None) -> list[HubFile]:
    """The files an address means: one, those below a folder, or those that match a glob; sorted by path."""
    place = parse(url)
    wanted = place.path.strip("/")
    wild = re.search(r"[*?\[]", wanted)
    folder = wanted[: wild.start()].rpartition("/")[0] if wild else wanted.rpartition("/")[0]
    listed = _listed(place, folder, retry or RetryPolicy())
    if wild:
        pattern = re.compile(glob_to_regex(wanted))
        found = [file for file in listed if pattern.fullmatch(file.place.path)]
    else:
        exact = [file for file in listed if file.place.path == wanted]
        below = [file for file in listed if not wanted or file.place.path.startswith(wanted + "/")]
        found = exact or [file for file in below if is_readable_name(file.place.path)]
    if not found:
        known = sorted({file.place.path for file in listed if is_readable_name(file.place.path)})[:3]
        hint = f"there are, for example: {', '.join(known)}" if known else "look at the data set's page for its files"
        raise UserError(f"'{url}' matches no file of {place.repo}", hint)
    return sorted(found, key=lambda file: file.place.path)


def model_files(repo: str, revision: str, retry: RetryPolicy | None = None) -> list[HubFile]:
    """All files of a model's repository."""
    return _listed(HubPath(repo, revision, "", "models"), "", retry or RetryPolicy())


def glob_to_regex(pattern: str) -> str:
    """`**/` any folders, `*` and `?` within one name, `[…]` as everywhere."""
    out, rest = "", pattern
    while rest:
        if rest.startswith("**/"):
            out, rest = out + "(?:.*/)?", rest[3:]
        elif rest.startswith("**"):
            out, rest = out + ".*", rest[2:]
        elif rest[0] == "[" and (end := rest.find("]", 2)) > 0:
            inside = rest[1:end].replace("\\", r"\\")
            out, rest = out + "[" + ("^" + inside[1:] if inside[0] == "!" else inside) + "]", rest[end + 1 :]
        else:
            out += {"*": "[^/]*", "?": "[^/]"}.get(rest[0], re.escape(rest[0]))
            rest = rest[1:]
    return out


def _listed(place: HubPath, folder: str, retry: RetryPolicy) -> list[HubFile]:
    """The repository's files below `folder`; the list of last time where the Hub cannot be reached."""
    url = f"{endpoint()}/api/{place.kind}/{place.repo}/tree/{quote(place.revision, safe='')}"
    url += f"/{quote(folder)}" * bool(folder) + "?recursive=true"
    kept = _folder(place) / "lists" / (hashlib.sha256(url.encode()).hexdigest()[:16] + ".json")
    try:
        listed = [asdict(file) for file in _pages(url, place, retry)]
    except UserError as error:
        if error.hint != HINT or not kept.exists():
            raise
        listed = json.loads(kept.read_bytes())
    else:
        write_atomic(kept, json.dumps(listed))
    return [HubFile(**{**each, "place": HubPath(**each["place"])}) for each in listed]


def _pages(url: str, place: HubPath, retry: RetryPolicy) -> Iterator[HubFile]:
    while url:
        entries, following = _page(url, place, retry)
        for entry in entries:
            if entry.get("type") == "file":
                large = entry.get("lfs") or {}
                path = replace(place, path=entry["path"])
                hashes = [large.get("oid", "")] if large else ["", entry.get("oid", "")]
                if Path(path.path).name in ("", "..") or not all(re.fullmatch("[0-9a-f]*", each) for each in hashes):
                    raise UserError(f"{url} lists a file that no repository can hold", "check HF_ENDPOINT")
                yield HubFile(path, int(large.get("size", entry["size"])), hashes[0], "".join(hashes[1:]))
        if following and not following.startswith(endpoint() + "/"):
            raise UserError(f"{url} points to another server for its next page", "check HF_ENDPOINT")
        url = following


def _page(url: str, place: HubPath, retry: RetryPolicy) -> tuple[list[dict[str, Any]], str]:
    for tried in range(retry.tries):
        try:
            with ask(urllib.request.Request(url, headers={"User-Agent": "fledge"}), retry.timeout) as answer:  # noqa: S310
                entries = json.loads(answer.read())
                link = re.search(r'<([^>]+)>;\s*rel="?next"?', answer.headers.get("Link", ""))
                if not isinstance(entries, list):
                    raise ValueError("no list")
                return entries, urljoin(url, link[1]) if link else ""
        except UserError as error:
            if "HTTP 404" in error.message:
                what = "data set" if place.kind == "datasets" else "model"
                path = f" with '{place.path}'" * bool(place.path)
                raise UserError(
                    f"the Hub has no {what} '{place.repo}'{path} at '{place.revision}'",
                    "check owner, name, revision and folder",
                ) from None
            raise
        except (RetryDownload, ValueError, OSError) as error:
            why = str(error)
            time.sleep(max(getattr(error, "wait", 0.0), retry.pause * 2**tried) * (tried + 1 < retry.tries))
    raise UserError(f"could not list {url}: {why}", HINT)


def _folder(place: HubPath) -> Path:
    return cache_dir() / "downloads" / "hub" / place.repo


def download_file(file: HubFile, retry: RetryPolicy | None = None) -> Path:
    """The file in the cache. Its address there holds its hash: a new version is another file."""
    place = file.place
    url = f"{place.site}/resolve/{quote(place.revision, safe='')}/{quote(place.path)}"
    version = (file.sha256 or file.blob or hashlib.sha256(file.name.encode()).hexdigest())[:12]
    path = _folder(place) / version / Path(place.path).name
    return fetch(url, path, ExpectedFile(file.size, file.sha256, file.blob), retry)
