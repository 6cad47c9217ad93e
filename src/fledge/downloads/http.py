"""Download one file over HTTP into the cache: complete and checked, or absent.

A partial download is kept as `.partial-NAME` and resumed with a Range request if the server still has the same file
(ETag, else Last-Modified; a file with neither is downloaded from the start). Temporary failures (503, 429, a stalled
or truncated response) are retried with growing pauses. Files of the Hugging Face Hub are downloaded by hub.py.
"""

import fcntl
import http.client
import json
import os
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fledge.core.errors import UserError
from fledge.core.files import PARTIAL, human_bytes, new_folders, sha256, sync_folder
from fledge.core.progress import byte_progress

READ_SIZE = 1 << 20
TEMPORARY = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses that are retried
HINT = "check the network, or download the file another way and give its path instead"


@dataclass(frozen=True)
class RetryPolicy:
    """Seconds to wait for a byte, attempts without any progress, and the first pause between them in seconds."""

    timeout: float = 30.0
    tries: int = 5
    pause: float = 1.0


@dataclass(frozen=True)
class ExpectedFile:
    """What the publisher says about the file."""

    size: int | None = None
    sha256: str = ""


class RetryDownload(Exception):
    """This attempt failed in a way that may be temporary. `wait`: seconds the server asked for."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def fetch(url: str, path: Path, expected: ExpectedFile | None = None, retry: RetryPolicy | None = None) -> Path:
    """Download `url` to `path` unless it exists. A second process that wants the same file waits for the first."""
    if path.exists():
        return path
    partial = path.with_name(PARTIAL + path.name)
    with new_folders(path.parent), partial.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            if not path.exists():
                _download_all(url, partial, file, expected or ExpectedFile(), retry or RetryPolicy())
                os.fsync(file.fileno())
                partial.replace(path)
                sync_folder(path.parent)
        finally:  # keep only what can be resumed
            if path.exists() or not partial.exists() or not partial.stat().st_size:
                partial.unlink(missing_ok=True)
                _version_file(partial).unlink(missing_ok=True)
    return path


def _download_all(url: str, partial: Path, file: IO[bytes], expected: ExpectedFile, retry: RetryPolicy) -> None:
    """Request until the file is complete and correct; give up after `retry.tries` attempts without progress."""
    failures, mismatched = 0, False
    while True:
        before = partial.stat().st_size
        try:
            _request_rest(url, partial, file, expected, retry)
        except RetryDownload as error:
            failures = 0 if partial.stat().st_size > before else failures + 1
            if failures >= retry.tries:
                raise UserError(f"could not download {url}: {error}", HINT) from None
            time.sleep(max(error.wait, retry.pause * 2 ** min(failures, 5)))
            continue
        if not (why := _mismatch(partial, expected)):
            return
        _restart(partial, file)
        if mismatched:
            raise UserError(f"{url} has other content than expected ({why})", "try again later")
        mismatched = True  # try once more from the start: two versions may have been joined


def _request_rest(url: str, partial: Path, file: IO[bytes], expected: ExpectedFile, retry: RetryPolicy) -> None:
    """One request: for the rest of the file, or for all of it."""
    have, version = partial.stat().st_size, _stored_version(partial, url)
    if have and (not version or (expected.size is not None and have > expected.size)):
        have = _restart(partial, file)
    if have and have == expected.size:
        return
    request = urllib.request.Request(url, headers={"User-Agent": "fledge", "Accept-Encoding": "identity"})  # noqa: S310 — http(s) only, see _open
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", version)
    with _open(request, retry.timeout) as response:
        if response is None:  # 416: the partial file is not a beginning of the file on the server
            _restart(partial, file)
            raise RetryDownload("the partial file does not match")
        if have and not _is_continuation(response, have):
            have = _restart(partial, file)
        length = response.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else expected.size
        if expected.size is not None and total != expected.size:
            raise UserError(f"{url} has {total:,} bytes, not the expected {expected.size:,}", "try again later")
        _store_version(partial, url, response)
        _check_disk_space(partial, (total or 0) - have)
        _copy(response, file, url, have, total)


def _is_continuation(response: Any, have: int) -> bool:
    return response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")


def _copy(response: Any, file: IO[bytes], url: str, have: int, total: int | None) -> None:
    with byte_progress(url.rpartition("/")[2], total, have) as advance:
        try:
            while data := response.read1(READ_SIZE):
                file.write(data)
                file.flush()
                have += len(data)
                advance(len(data))
        except (TimeoutError, http.client.HTTPException, ConnectionError) as error:
            raise RetryDownload(f"the connection broke after {human_bytes(have)} ({_reason(error)})") from None
    if total is not None and have != total:
        raise RetryDownload(f"only {have:,} of {total:,} bytes arrived")


@contextmanager
def _open(request: urllib.request.Request, timeout: float) -> Iterator[Any]:
    """The response; None for HTTP 416. Temporary failures raise RetryDownload, others UserError."""
    url = request.full_url
    if not url.startswith(("http://", "https://")):
        raise UserError(f"'{url}' is not a web address", "it should begin with https://")
    try:
        response = urllib.request.urlopen(request, timeout=timeout)  # noqa: S310 — checked above
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            yield None
            return
        if error.code in TEMPORARY:
            wait = error.headers.get("Retry-After") or ""
            seconds = float(min(60, int(wait) if wait.isdigit() else 0))
            raise RetryDownload(f"HTTP {error.code} {error.reason}", seconds) from None
        raise _refused(url, error.code, str(error.reason)) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, socket.gaierror | ConnectionRefusedError):
            raise UserError(f"could not reach {url}: {_reason(error.reason)}", HINT) from None
        raise RetryDownload(_reason(error.reason)) from None
    except (OSError, http.client.HTTPException) as error:
        raise RetryDownload(_reason(error)) from None
    with response:
        yield response


def _refused(url: str, code: int, reason: str) -> UserError:
    if code in (404, 410):
        return UserError(f"could not download {url}: not found (HTTP {code})", "check the address")
    if code in (401, 403):
        hint = "download the file with your own account and give its path instead"
        return UserError(f"could not download {url}: access denied (HTTP {code})", hint)
    return UserError(f"could not download {url}: HTTP {code} {reason}", HINT)


def _reason(error: object) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _mismatch(partial: Path, expected: ExpectedFile) -> str:
    """What is wrong with the file; '' if nothing."""
    size = partial.stat().st_size
    if expected.size is not None and size != expected.size:
        return f"{size:,} bytes, not {expected.size:,}"
    if expected.sha256 and (actual := sha256(partial)) != expected.sha256:
        return f"SHA-256 {actual[:12]}…, not {expected.sha256[:12]}…"
    return ""


def _restart(partial: Path, file: IO[bytes]) -> int:
    file.truncate(0)
    _version_file(partial).unlink(missing_ok=True)
    return 0


def _version_file(partial: Path) -> Path:
    """Beside the partial file: its URL and version."""
    return partial.with_name(partial.name + ".json")


def _stored_version(partial: Path, url: str) -> str:
    try:
        stored = json.loads(_version_file(partial).read_bytes())
        return str(stored["version"]) if stored["url"] == url else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _store_version(partial: Path, url: str, response: Any) -> None:
    etag = response.headers.get("ETag", "")
    version = response.headers.get("Last-Modified", "") if etag.startswith("W/") or not etag else etag
    _version_file(partial).write_text(json.dumps({"url": url, "version": version}))


def _check_disk_space(partial: Path, needed: int) -> None:
    if needed > (free := shutil.disk_usage(partial.parent).free):
        raise UserError(
            f"the disk is full: the download needs {human_bytes(needed)}, {human_bytes(free)} are free",
            "free some space, or set FLEDGE_CACHE to a folder on another disk",
        )
