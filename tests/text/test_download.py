"""A file over HTTP: whole and checked, or not there at all; continued where it broke."""

import errno
import hashlib
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from fledge.core.errors import UserError
from fledge.text import download
from fledge.text.download import ExpectedFile, RetryPolicy, fetch

if TYPE_CHECKING:
    from .conftest import Remote

BODY = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(BODY).hexdigest()
QUICK = RetryPolicy(timeout=0.4, tries=3, pause=0.01)


def serve(remote: "Remote", *moods: str, etag: str = '"1"', content: bytes = BODY) -> str:
    remote.files["/f"] = SimpleNamespace(content=content, etag=etag, moods=list(moods))  # type: ignore[assignment]
    return remote.address + "/f"


def ranges(remote: "Remote") -> list[str]:
    return [range_ for _, range_ in remote.asked]


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def test_a_file_is_fetched_once_and_nothing_else_is_left(remote: "Remote", tmp_path: Path) -> None:
    url = serve(remote)
    for _ in range(2):
        assert fetch(url, tmp_path / "d" / "f", ExpectedFile(len(BODY), SHA256)).read_bytes() == BODY
    assert ranges(remote) == [""]
    assert left(tmp_path / "d") == ["f"]


@pytest.mark.parametrize("mood", ["503", "429", "500", "silent"])
def test_what_may_pass_is_tried_again(remote: "Remote", tmp_path: Path, mood: str) -> None:
    assert fetch(serve(remote, mood, mood), tmp_path / "f", ExpectedFile(), QUICK).read_bytes() == BODY
    assert len(remote.asked) == 3


@pytest.mark.parametrize("mood", ["half", "stall"])
def test_a_broken_download_goes_on_with_the_bytes_that_are_missing(remote: "Remote", tmp_path: Path, mood: str) -> None:
    got = fetch(serve(remote, mood), tmp_path / "f", ExpectedFile(len(BODY), SHA256), QUICK)
    assert got.read_bytes() == BODY
    assert ranges(remote) == ["", f"bytes={len(BODY) // 2}-"]


def test_another_process_later_goes_on_where_this_one_gave_up(remote: "Remote", tmp_path: Path) -> None:
    url = serve(remote, "half", "503", "503", "503")
    with pytest.raises(UserError, match="HTTP 503"):
        fetch(url, tmp_path / "f", ExpectedFile(), QUICK)
    assert left(tmp_path) == [".partial-f", ".partial-f.json"]
    assert fetch(url, tmp_path / "f", ExpectedFile(), QUICK).read_bytes() == BODY
    assert ranges(remote)[-1] == f"bytes={len(BODY) // 2}-"
    assert left(tmp_path) == ["f"]


def test_a_file_that_changed_meanwhile_is_begun_anew(remote: "Remote", tmp_path: Path) -> None:
    url = serve(remote, "half", "503", "503", "503")
    with pytest.raises(UserError):
        fetch(url, tmp_path / "f", ExpectedFile(), QUICK)
    serve(remote, etag='"2"', content=BODY[::-1])
    assert fetch(url, tmp_path / "f", ExpectedFile(), QUICK).read_bytes() == BODY[::-1]


@pytest.mark.parametrize(("second", "etag"), [("deaf", '"1"'), ("", ""), ("", 'W/"1"')], ids=["deaf", "none", "weak"])
def test_where_it_cannot_go_on_it_begins_anew(remote: "Remote", tmp_path: Path, second: str, etag: str) -> None:
    url = serve(remote, "half", second, etag=etag)
    assert fetch(url, tmp_path / "f", ExpectedFile(len(BODY), SHA256), QUICK).read_bytes() == BODY


def test_a_part_of_another_file_is_not_continued(remote: "Remote", tmp_path: Path) -> None:
    (tmp_path / ".partial-f").write_bytes(b"rubbish")
    (tmp_path / ".partial-f.json").write_text('{"url": "http://else/f", "mark": "\\"1\\""}')
    assert fetch(serve(remote), tmp_path / "f", ExpectedFile(), QUICK).read_bytes() == BODY
    assert ranges(remote) == [""]


def test_a_part_that_was_damaged_on_disk_is_noticed_and_fetched_anew(remote: "Remote", tmp_path: Path) -> None:
    url = serve(remote, "half", "503", "503", "503")
    with pytest.raises(UserError):
        fetch(url, tmp_path / "f", ExpectedFile(len(BODY), SHA256), QUICK)
    with (tmp_path / ".partial-f").open("r+b") as file:
        file.write(b"xxx")
    assert fetch(url, tmp_path / "f", ExpectedFile(len(BODY), SHA256), QUICK).read_bytes() == BODY


@pytest.mark.parametrize(
    "expected",
    [ExpectedFile(sha256="0" * 64), ExpectedFile(blob="0" * 40), ExpectedFile(size=7)],
    ids=["sha256", "blob", "size"],
)
def test_something_else_than_was_announced_never_gets_the_name(
    remote: "Remote", tmp_path: Path, expected: ExpectedFile
) -> None:
    url = serve(remote)
    with pytest.raises(UserError) as caught:
        fetch(url, tmp_path / "d" / "f", expected, QUICK)
    assert url in caught.value.message
    assert left(tmp_path) == []


def test_a_body_that_is_always_too_short_is_given_up_and_never_gets_the_name(remote: "Remote", tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"only .* of .* bytes came|connection broke"):
        fetch(serve(remote, *["half"] * 60), tmp_path / "f", ExpectedFile(), QUICK)
    assert "f" not in left(tmp_path)


@pytest.mark.parametrize(("code", "word"), [("404", "nothing there"), ("403", "not open"), ("401", "not open")])
def test_what_waiting_cannot_mend_is_refused_at_once(remote: "Remote", tmp_path: Path, code: str, word: str) -> None:
    with pytest.raises(UserError, match=word):
        fetch(serve(remote, code), tmp_path / "f", ExpectedFile(), QUICK)
    assert len(remote.asked) == 1
    assert left(tmp_path) == []


def test_without_a_network_the_way_round_is_told(remote: "Remote", tmp_path: Path) -> None:
    with pytest.raises(UserError, match="could not reach") as caught:
        fetch("http://127.0.0.1:1/f", tmp_path / "f", ExpectedFile(), QUICK)
    assert "give its path" in caught.value.hint
    assert left(tmp_path) == []


def test_two_that_want_the_same_file_fetch_it_once(remote: "Remote", tmp_path: Path) -> None:
    url = serve(remote)
    threads = [threading.Thread(target=fetch, args=(url, tmp_path / "f")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "f").read_bytes() == BODY
    assert len(remote.asked) == 1
    assert left(tmp_path) == ["f"]


def test_a_disk_that_is_too_small_is_told_before_it_is_full(
    remote: "Remote", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: SimpleNamespace(free=5))
    with pytest.raises(UserError, match="disk is full") as caught:
        fetch(serve(remote), tmp_path / "f", ExpectedFile(), QUICK)
    assert "FLEDGE_CACHE" in caught.value.hint


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_disk_that_fills_up_stops_it_and_leaves_no_file(remote: "Remote", tmp_path: Path) -> None:
    (tmp_path / ".partial-f").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r".") as caught:
        fetch(serve(remote), tmp_path / "f", ExpectedFile(), QUICK)
    assert caught.value.errno in (errno.ENOSPC, errno.EINVAL)
    assert "f" not in left(tmp_path)
