"""Download of one file over HTTP: complete and checked, or absent; resumed after an interruption."""

import errno
import hashlib
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from fledge.core.errors import UserError
from fledge.downloads import http
from fledge.downloads.http import ExpectedFile, RetryPolicy, fetch

from .conftest import File

if TYPE_CHECKING:
    from .conftest import Remote

BODY = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(BODY).hexdigest()
FAST = RetryPolicy(timeout=0.4, tries=3, pause=0.01)


def serve(remote: "Remote", *faults: str, etag: str = '"1"', content: bytes = BODY) -> str:
    remote.files["/f"] = File(content, etag, list(faults))
    return remote.address + "/f"


def ranges(remote: "Remote") -> list[str]:
    return [range_ for _, range_ in remote.asked]


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def test_file_is_downloaded_once_and_nothing_else_is_left(remote: "Remote", tmp_path: Path) -> None:
    url = serve(remote)
    for _ in range(2):
        assert fetch(url, tmp_path / "d" / "f", ExpectedFile(len(BODY), SHA256)).read_bytes() == BODY
    assert ranges(remote) == [""]
    assert left(tmp_path / "d") == ["f"]


@pytest.mark.parametrize("fault", ["503", "429", "500", "silent"])
def test_temporary_failure_is_retried(remote: "Remote", tmp_path: Path, fault: str) -> None:
    assert fetch(serve(remote, fault, fault), tmp_path / "f", ExpectedFile(), FAST).read_bytes() == BODY
    assert len(remote.asked) == 3


@pytest.mark.parametrize("fault", ["half", "stall"])
def test_interrupted_download_is_resumed(remote: "Remote", tmp_path: Path, fault: str) -> None:
    got = fetch(serve(remote, fault), tmp_path / "f", ExpectedFile(len(BODY), SHA256), FAST)
    assert got.read_bytes() == BODY
    assert ranges(remote) == ["", f"bytes={len(BODY) // 2}-"]


def test_later_call_resumes_a_download_that_was_given_up(remote: "Remote", tmp_path: Path) -> None:
    url = serve(remote, "half", "503", "503", "503")
    with pytest.raises(UserError, match="HTTP 503"):
        fetch(url, tmp_path / "f", ExpectedFile(), FAST)
    assert left(tmp_path) == [".partial-f", ".partial-f.json"]
    assert fetch(url, tmp_path / "f", ExpectedFile(), FAST).read_bytes() == BODY
    assert ranges(remote)[-1] == f"bytes={len(BODY) // 2}-"
    assert left(tmp_path) == ["f"]


def test_changed_file_is_downloaded_from_the_start(remote: "Remote", tmp_path: Path) -> None:
    url = serve(remote, "half", "503", "503", "503")
    with pytest.raises(UserError):
        fetch(url, tmp_path / "f", ExpectedFile(), FAST)
    serve(remote, etag='"2"', content=BODY[::-1])
    assert fetch(url, tmp_path / "f", ExpectedFile(), FAST).read_bytes() == BODY[::-1]


@pytest.mark.parametrize(
    ("second", "etag"), [("ignore range", '"1"'), ("", ""), ("", 'W/"1"')], ids=["ignore range", "none", "weak"]
)
def test_without_resume_download_starts_over(remote: "Remote", tmp_path: Path, second: str, etag: str) -> None:
    url = serve(remote, "half", second, etag=etag)
    assert fetch(url, tmp_path / "f", ExpectedFile(len(BODY), SHA256), FAST).read_bytes() == BODY


def test_partial_file_of_another_url_is_not_resumed(remote: "Remote", tmp_path: Path) -> None:
    (tmp_path / ".partial-f").write_bytes(b"rubbish")
    (tmp_path / ".partial-f.json").write_text('{"url": "http://else/f", "version": "\\"1\\""}')
    assert fetch(serve(remote), tmp_path / "f", ExpectedFile(), FAST).read_bytes() == BODY
    assert ranges(remote) == [""]


def test_damaged_partial_file_is_downloaded_again(remote: "Remote", tmp_path: Path) -> None:
    url = serve(remote, "half", "503", "503", "503")
    with pytest.raises(UserError):
        fetch(url, tmp_path / "f", ExpectedFile(len(BODY), SHA256), FAST)
    with (tmp_path / ".partial-f").open("r+b") as file:
        file.write(b"xxx")
    assert fetch(url, tmp_path / "f", ExpectedFile(len(BODY), SHA256), FAST).read_bytes() == BODY


@pytest.mark.parametrize(
    "expected",
    [ExpectedFile(sha256="0" * 64), ExpectedFile(size=7)],
    ids=["sha256", "size"],
)
def test_file_with_wrong_hash_or_size_is_refused(remote: "Remote", tmp_path: Path, expected: ExpectedFile) -> None:
    url = serve(remote)
    with pytest.raises(UserError) as caught:
        fetch(url, tmp_path / "d" / "f", expected, FAST)
    assert url in caught.value.message
    assert left(tmp_path) == []


def test_body_that_is_always_too_short_is_given_up(remote: "Remote", tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"only .* of .* bytes arrived|connection broke"):
        fetch(serve(remote, *["half"] * 60), tmp_path / "f", ExpectedFile(), FAST)
    assert "f" not in left(tmp_path)


@pytest.mark.parametrize(("code", "word"), [("404", "not found"), ("403", "access denied"), ("401", "access denied")])
def test_permanent_failure_is_refused_at_once(remote: "Remote", tmp_path: Path, code: str, word: str) -> None:
    with pytest.raises(UserError, match=word):
        fetch(serve(remote, code), tmp_path / "f", ExpectedFile(), FAST)
    assert len(remote.asked) == 1
    assert left(tmp_path) == []


def test_unreachable_server_is_refused_with_an_alternative(remote: "Remote", tmp_path: Path) -> None:
    with pytest.raises(UserError, match="could not reach") as caught:
        fetch("http://127.0.0.1:1/f", tmp_path / "f", ExpectedFile(), FAST)
    assert "give its path" in caught.value.hint
    assert left(tmp_path) == []


def test_concurrent_downloads_of_one_file_request_it_once(remote: "Remote", tmp_path: Path) -> None:
    url = serve(remote)
    threads = [threading.Thread(target=fetch, args=(url, tmp_path / "f")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "f").read_bytes() == BODY
    assert len(remote.asked) == 1
    assert left(tmp_path) == ["f"]


def test_too_little_disk_space_is_refused_before_writing(
    remote: "Remote", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http.shutil, "disk_usage", lambda _: SimpleNamespace(free=5))
    with pytest.raises(UserError, match="disk is full") as caught:
        fetch(serve(remote), tmp_path / "f", ExpectedFile(), FAST)
    assert "FLEDGE_CACHE" in caught.value.hint


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_disk_that_fills_up_leaves_no_file(remote: "Remote", tmp_path: Path) -> None:
    (tmp_path / ".partial-f").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r".") as caught:
        fetch(serve(remote), tmp_path / "f", ExpectedFile(), FAST)
    assert caught.value.errno in (errno.ENOSPC, errno.EINVAL)
    assert "f" not in left(tmp_path)
