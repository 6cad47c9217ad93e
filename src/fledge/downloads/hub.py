"""Files of the Hugging Face Hub: datasets by address, models by name. Everything over `huggingface_hub`.

    hf://datasets/OWNER/NAME[@REVISION]/PATH    PATH may be a glob
    OWNER/NAME                                  all files of a model

A revision is resolved to a commit first, so that all files are of one commit, and a file in the cache needs no network.
Without a network, the last listing of the same revision is used. `HF_ENDPOINT` names another server; gated and private
repositories need `hf auth login` or `HF_TOKEN`.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from fledge.core.errors import UserError
from fledge.core.files import DISK_FULL, cache_dir, write_atomic

SCHEME = "hf://datasets/"
REFS = r"refs(?:/|%2F)[\w.-]+(?:/|%2F)[\w.-]+"
ADDRESS = re.compile(rf"{SCHEME}(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>{REFS}|[^/@]+))?(?:/(?P<path>.*))?")
TIMEOUT = 30.0  # seconds for the first answer of the Hub
LOGIN_HINT = "log in with 'hf auth login', or set HF_TOKEN"
OFFLINE_HINT = "check the network, or download the file another way and give its path instead"


@dataclass(frozen=True)
class HubRepo:
    id: str
    revision: str = "main"
    type: Literal["dataset", "model"] = "dataset"

    def __str__(self) -> str:
        return f"{self.type} '{self.id}'"


@dataclass(frozen=True)
class HubFile:
    """One file of a repository at a commit. The Hub publishes a SHA-256 of large files, and git's hash of others."""

    repo: HubRepo
    commit: str
    path: str
    size: int
    sha256: str
    blob: str

    @property
    def hash(self) -> str:
        return self.sha256 or self.blob

    @property
    def name(self) -> str:
        revision = "" if self.repo.revision == "main" else f"@{self.repo.revision}"
        scheme = SCHEME if self.repo.type == "dataset" else "hf://"
        return f"{scheme}{self.repo.id}{revision}/{self.path}"


class HubUnreachable(UserError):
    """No answer, or one that says that the Hub is down."""


def endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def parse_address(url: str) -> tuple[HubRepo, str]:
    """The repository and the path in it."""
    match = ADDRESS.fullmatch(url)
    if match is None:
        raise UserError(f"'{url}' is not a dataset on the Hub", "write hf://datasets/OWNER/NAME/path/to/file.parquet")
    return HubRepo(match["repo"], unquote(match["revision"] or "main")), (match["path"] or "").strip("/")


def dataset_files(url: str, is_readable: Callable[[str], bool]) -> list[HubFile]:
    """The files that an address means: one, the readable ones below a folder, or those that match a glob; sorted."""
    from fsspec.utils import glob_translate

    repo, path = parse_address(url)
    if any("**" in part != "**" for part in path.split("/")):
        raise UserError(f"'{url}': ** stands for whole folders", "write it between slashes: data/**/*.parquet")
    first_glob = re.search(r"[*?\[]", path)
    folder = (path[: first_glob.start()] if first_glob else path).rpartition("/")[0]
    listed = _list_files(repo, folder)
    if first_glob:
        pattern = re.compile(glob_translate(path))
        found = [file for file in listed if pattern.fullmatch(file.path)]
    else:
        exact = [file for file in listed if file.path == path]
        below = [file for file in listed if not path or file.path.startswith(path + "/")]
        found = exact or [file for file in below if is_readable(file.path)]
    if not found:
        known = sorted(file.path for file in listed if is_readable(file.path))[:3]
        hint = f"there are, for example: {', '.join(known)}" if known else "see the files on the dataset's page"
        raise UserError(f"'{url}' matches no file of {repo}", hint)
    return sorted(found, key=lambda file: file.path)


def model_files(repo_id: str, revision: str) -> list[HubFile]:
    """All files of a model."""
    return _list_files(HubRepo(repo_id, revision, "model"), "")


def download_file(file: HubFile) -> Path:
    """The file in the cache, downloaded if necessary and then checked by its hash."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    repo, cache = file.repo, cache_dir() / "hub"
    cached = try_to_load_from_cache(repo.id, file.path, cache, file.commit, repo.type)
    if isinstance(cached, str):
        return Path(cached)
    with _hub_errors(repo, file.path):
        path = Path(
            hf_hub_download(
                repo.id, file.path, repo_type=repo.type, revision=file.commit, cache_dir=cache, endpoint=endpoint()
            )
        )
    if file.hash != (actual := _hash_of(path, file)):
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise UserError(f"{file.name} arrived damaged: hash {actual[:12]}…, not {file.hash[:12]}…", "try again later")
    return path


def _hash_of(path: Path, file: HubFile) -> str:
    """SHA-256, or git's blob hash."""
    prefix = b"" if file.sha256 else f"blob {path.stat().st_size}\0".encode()
    digest = hashlib.new("sha256" if file.sha256 else "sha1", prefix, usedforsecurity=False)
    with path.open("rb") as content:
        while data := content.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def _list_files(repo: HubRepo, folder: str) -> list[HubFile]:
    """The files below `folder`. Kept on disk: for the same commit, and for when the Hub cannot be reached."""
    key = hashlib.sha256(f"{endpoint()} {repo!r} {folder}".encode()).hexdigest()[:16]
    store = cache_dir() / "hub" / "listings" / f"{key}.json"
    known: dict[str, Any] = json.loads(store.read_bytes()) if store.exists() else {}
    try:
        with _hub_errors(repo, folder):
            listing = _fetch_listing(repo, folder, known)
    except HubUnreachable:
        if not known:
            raise
        listing = known
    if listing is not known:
        write_atomic(store, json.dumps(listing))
    return [HubFile(repo, listing["commit"], **each) for each in listing["files"]]


def _fetch_listing(repo: HubRepo, folder: str, known: dict[str, Any]) -> dict[str, Any]:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi(endpoint=endpoint(), library_name="fledge")
    get_info = api.dataset_info if repo.type == "dataset" else api.model_info
    info = get_info(repo.id, revision=repo.revision, expand=["sha"], timeout=TIMEOUT)
    if info.sha == known.get("commit"):
        return known
    files = []
    for entry in api.list_repo_tree(repo.id, folder or None, recursive=True, revision=info.sha, repo_type=repo.type):
        if isinstance(entry, RepoFile):
            if {"", ".", ".."} & set(entry.path.split("/")):
                raise UserError(f"{repo} lists a file outside the repository: '{entry.path}'", "check HF_ENDPOINT")
            sha256, size = (entry.lfs.sha256, entry.lfs.size) if entry.lfs else ("", entry.size)
            files.append({"path": entry.path, "size": size, "sha256": sha256, "blob": entry.blob_id})
    return {"commit": info.sha, "files": files}


@contextmanager
def _hub_errors(repo: HubRepo, path: str) -> Iterator[None]:
    """Turn the errors of huggingface_hub into a `UserError`. A full local disk stays an OSError."""
    from huggingface_hub import errors

    try:
        yield
    except UserError:
        raise
    except errors.GatedRepoError:
        hint = f"ask for access on the page of the {repo.type}, then {LOGIN_HINT}"
        raise UserError(f"access to the {repo} on the Hub is restricted", hint) from None
    except errors.RepositoryNotFoundError:
        hint = f"check owner and name; if it is private, {LOGIN_HINT}"
        raise UserError(f"the Hub has no {repo}", hint) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"the Hub has no {repo} at revision '{repo.revision}'", "check the revision") from None
    except errors.RemoteEntryNotFoundError:
        raise UserError(f"the {repo} has no '{path}' at '{repo.revision}'", "check the folder and the name") from None
    except Exception as error:  # those of httpx and of huggingface_hub have no common base class
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        response = getattr(error, "response", None)
        if response is not None and response.status_code in (401, 403):
            raise UserError(f"the Hub refuses access to the {repo}", LOGIN_HINT) from None
        cause = error.__cause__ or error
        reason = " ".join(str(cause).split())[:200] or type(cause).__name__
        raise HubUnreachable(f"could not reach {endpoint()} for the {repo}: {reason}", OFFLINE_HINT) from None
