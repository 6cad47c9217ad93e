"""One file over HTTP into the cache: whole and checked, or not there at all.

What has arrived is kept beside its final place as `.partial-NAME` and continued with a Range request, if the server
still has the same file (ETag, else Last-Modified; a file with neither is begun anew). Refusals that may pass
(503, 429, a stall, a body that is too short) are tried again with growing pauses. Knows nothing of the Hub (hub.py).
"""

import fcntl
import hashlib
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
from fledge.core.files import PARTIAL, human_bytes, new_folders, sync_folder
from fledge.core.progress import byte_progress

READ_SIZE = 1 << 20
PASSING = {408, 425, 429, 500, 502, 503, 504}
HINT = "check the network, or fetch the file another way and give its path instead"


@dataclass(frozen=True)
class RetryPolicy:
    """How long to wait for a byte, how often to try without any progress, and the first pause between."""

    timeout: float = 30.0
    tries: int = 5
    pause: float = 1.0


@dataclass(frozen=True)
class ExpectedFile:
    """What the publisher says the file is. `sha256` of the content, or git's `blob` hash of it."""

    size: int | None = None
    sha256: str = ""
    blob: str = ""


class RetryDownload(Exception):
    """This try failed in a way that may pass. `wait`: what the server asked for."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


def fetch(url: str, path: Path, expected: ExpectedFile | None = None, retry: RetryPolicy | None = None) -> Path:
    """`path`, downloaded once. A second process that wants it too waits for the first."""
    if path.exists():
        return path
    partial = path.with_name(PARTIAL + path.name)
    with new_folders(path.parent), partial.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            if not path.exists():
                _fill(url, partial, file, expected or ExpectedFile(), retry or RetryPolicy())
                os.fsync(file.fileno())
                partial.replace(path)
                sync_folder(path.parent)
        finally:  # something worth going on with stays; nothing else does
            if path.exists() or not partial.exists() or not partial.stat().st_size:
                partial.unlink(missing_ok=True)
                _note(partial).unlink(missing_ok=True)
    return path


def _fill(url: str, partial: Path, file: IO[bytes], expected: ExpectedFile, retry: RetryPolicy) -> None:
    """Try until all bytes are here and right; give up after some tries that brought nothing."""
    failed, wrong = 0, False
    while True:
        before = partial.stat().st_size
        try:
            _continue(url, partial, file, expected, retry)
        except RetryDownload as error:
            failed = 0 if partial.stat().st_size > before else failed + 1
            if failed >= retry.tries:
                raise UserError(f"could not download {url}: {error}", HINT) from None
            time.sleep(max(error.wait, retry.pause * 2 ** min(failed, 5)))
            continue
        if not (why := _mismatch(partial, expected)):
            return
        _restart(partial, file)
        if wrong:
            raise UserError(f"{url} sent something else ({why})", "try again later")
        wrong = True  # once more from the beginning: it may have been the joining of two downloads


def _continue(url: str, partial: Path, file: IO[bytes], expected: ExpectedFile, retry: RetryPolicy) -> None:
    """One request: the rest of the file, or all of it."""
    have, mark = partial.stat().st_size, _mark(partial, url)
    if have and (not mark or (expected.size is not None and have > expected.size)):
        have = _restart(partial, file)
    if have and have == expected.size:
        return
    request = urllib.request.Request(url, headers={"User-Agent": "fledge", "Accept-Encoding": "identity"})  # noqa: S310 — http(s) only, see ask()
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", mark)
    with ask(request, retry.timeout) as answer:
        if answer is None:  # 416: what is here is not a beginning of what is there
            _restart(partial, file)
            raise RetryDownload("the part that was here does not fit")
        if have and not _continues(answer, have):
            have = _restart(partial, file)
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else expected.size
        if expected.size is not None and total != expected.size:
            raise UserError(
                f"{url} is {total:,} bytes long, not the {expected.size:,} that were announced", "try again later"
            )
        _write_mark(partial, url, answer)
        _check_room(partial, (total or 0) - have)
        _pour(answer, file, url, have, total)


def _continues(answer: Any, have: int) -> bool:
    return answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")


def _pour(answer: Any, file: IO[bytes], url: str, have: int, total: int | None) -> None:
    with byte_progress(url.rpartition("/")[2], total, have) as advance:
        try:
            while data := answer.read1(READ_SIZE):
                file.write(data)
                file.flush()
                have += len(data)
                advance(len(data))
        except (TimeoutError, http.client.HTTPException, ConnectionError) as error:
            raise RetryDownload(f"the connection broke after {human_bytes(have)} ({_words(error)})") from None
    if total is not None and have != total:
        raise RetryDownload(f"only {have:,} of {total:,} bytes came")


@contextmanager
def ask(request: urllib.request.Request, timeout: float) -> Iterator[Any]:
    """The answer to a request; what can be mended by waiting raises Again, what cannot is the user's to know."""
    url = request.full_url
    if not url.startswith(("http://", "https://")):
        raise UserError(f"'{url}' is no web address", "it begins with https://")
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)  # noqa: S310 — checked above
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            yield None
            return
        if error.code in PASSING:
            asked = error.headers.get("Retry-After") or ""
            raise RetryDownload(
                f"HTTP {error.code} {error.reason}", float(min(60, int(asked) if asked.isdigit() else 0))
            ) from None
        raise _refused(url, error.code, str(error.reason)) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, socket.gaierror | ConnectionRefusedError):
            raise UserError(f"could not reach {url}: {_words(error.reason)}", HINT) from None
        raise RetryDownload(_words(error.reason)) from None
    except (OSError, http.client.HTTPException) as error:
        raise RetryDownload(_words(error)) from None
    with answer:
        yield answer


def _refused(url: str, code: int, reason: str) -> UserError:
    if code in (404, 410):
        return UserError(f"could not download {url}: there is nothing there (HTTP {code})", "check the address")
    if code in (401, 403):
        return UserError(
            f"could not download {url}: it is not open to everyone (HTTP {code})",
            "fetch the file with your own account and give its path instead",
        )
    return UserError(f"could not download {url}: HTTP {code} {reason}", HINT)


def _words(error: object) -> str:
    if isinstance(error, TimeoutError):
        return "nothing came for too long"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _mismatch(partial: Path, expected: ExpectedFile) -> str:
    """What is wrong with the file, or nothing."""
    size = partial.stat().st_size
    if expected.size is not None and size != expected.size:
        return f"{size:,} bytes, not {expected.size:,}"
    for name, wanted, start in (("sha256", expected.sha256, b""), ("sha1", expected.blob, f"blob {size}\0".encode())):
        if wanted:
            digest = hashlib.new(name, start, usedforsecurity=False)
            with partial.open("rb") as file:
                while data := file.read(READ_SIZE):
                    digest.update(data)
            if (got := digest.hexdigest()) != wanted:
                return f"{name} {got[:12]}…, not {wanted[:12]}…"
    return ""


def _restart(partial: Path, file: IO[bytes]) -> int:
    file.truncate(0)
    _note(partial).unlink(missing_ok=True)
    return 0


def _note(partial: Path) -> Path:
    """Beside the part: which version of which file it is a part of."""
    return partial.with_name(partial.name + ".json")


def _mark(partial: Path, url: str) -> str:
    try:
        note = json.loads(_note(partial).read_bytes())
        return str(note["mark"]) if note["url"] == url else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _write_mark(partial: Path, url: str, answer: Any) -> None:
    etag = answer.headers.get("ETag", "")
    mark = answer.headers.get("Last-Modified", "") if etag.startswith("W/") or not etag else etag
    _note(partial).write_text(json.dumps({"url": url, "mark": mark}))


def _check_room(partial: Path, needed: int) -> None:
    if needed > (free := shutil.disk_usage(partial.parent).free):
        raise UserError(
            f"the disk is full: {human_bytes(needed)} are still to come, {human_bytes(free)} are free",
            "free some space, or set FLEDGE_CACHE to a folder on another disk",
        )
