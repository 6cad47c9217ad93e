"""Files and folders are whole or absent."""

import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fledge.core import files
from fledge.core.errors import UserError
from fledge.core.files import (
    PARTIAL,
    REPLACED,
    atomic_folder,
    cache_dir,
    errors_with_path,
    file_lock,
    human_bytes,
    is_file_locked,
    read_json,
    remove_partials,
    restore_replaced,
    sha256,
    sync_folder,
    write_atomic,
)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(("content", "held"), [("käse\n", "käse\n".encode()), (b"\0\xff", b"\0\xff"), ("", b"")])
def test_file_has_what_was_written(tmp_path: Path, content: str | bytes, held: bytes) -> None:
    write_atomic(tmp_path / "deep" / "file", content)
    assert (tmp_path / "deep" / "file").read_bytes() == held
    assert names(tmp_path) == ["deep", "deep/file"]


def test_write_replaces_the_whole_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", "a long first content")
    write_atomic(tmp_path / "file", "short")
    assert (tmp_path / "file").read_text() == "short"


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(tmp_path / "file", "new \ud800")
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_file_does_not_replace_a_folder(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "inside").write_text("kept")
    with pytest.raises(OSError, match="taken"):
        write_atomic(tmp_path / "taken", "new")
    assert names(tmp_path) == ["taken", "taken/inside"]


def test_folder_appears_when_complete(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out") as inside:
        (inside / "sub").mkdir()
        (inside / "sub" / "file").write_text("x")
        assert not (tmp_path / "out").exists()
        assert inside.name.startswith(PARTIAL)
    assert names(tmp_path) == ["out", "out/sub", "out/sub/file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_failed_folder_is_removed(tmp_path: Path, error: type[BaseException]) -> None:
    def half_way() -> None:
        with atomic_folder(tmp_path / "out") as inside:
            (inside / "file").write_text("x")
            raise error

    with pytest.raises(error):
        half_way()
    assert names(tmp_path) == []


def test_failed_folder_leaves_no_new_parents(tmp_path: Path) -> None:
    def fails() -> None:
        with atomic_folder(tmp_path / "new" / "deeper" / "out"):
            raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        fails()
    assert names(tmp_path) == []


def test_non_empty_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    with pytest.raises(OSError, match="out"), atomic_folder(tmp_path / "out") as inside:
        (inside / "file").write_text("x")
    assert names(tmp_path) == ["out", "out/mine"]


def test_folder_does_not_replace_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("kept")
    with pytest.raises(OSError, match="out"), atomic_folder(tmp_path / "out") as inside:
        (inside / "file").write_text("x")
    assert (tmp_path / "out").read_text() == "kept"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_folder_is_replaced(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    {"folder": out.mkdir, "file": out.touch, "link": lambda: out.symlink_to("nowhere")}[kind]()
    with atomic_folder(out, replace=True) as inside:
        (inside / "new").touch()
    assert names(tmp_path) == ["out", "out/new"]


@pytest.mark.parametrize(("function", "number"), [("fsync", 1), ("fsync", 2), ("rename", 1), ("rename", 2)])
def test_failed_replacement_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    usual, calls = getattr(os, function), []

    def failing(*args: Any) -> None:
        calls.append(args)
        if len(calls) == number:
            raise OSError(errno.EIO, "bad disk")
        usual(*args)

    monkeypatch.setattr(os, function, failing)
    with pytest.raises(OSError, match="bad disk"), atomic_folder(tmp_path / "out", replace=True) as inside:
        (inside / "new").touch()
    assert names(tmp_path) == ["out", "out/old"]


@pytest.mark.parametrize("replaced", [False, True])
def test_killed_replacement_is_finished(tmp_path: Path, replaced: bool) -> None:
    (tmp_path / f"{REPLACED}out").mkdir()
    (tmp_path / f"{REPLACED}out" / "old").touch()
    if replaced:
        (tmp_path / "out").mkdir()
    restore_replaced(tmp_path)
    assert names(tmp_path) == (["out"] if replaced else ["out", "out/old"])


def test_lock_is_refused_while_another_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LOCK_PAUSE", 0)
    path, busy = tmp_path / "lock", UserError("busy", "wait")
    with file_lock(path, busy):
        assert is_file_locked(path)
        with pytest.raises(UserError, match="busy"), file_lock(path, busy):
            pass
    assert not is_file_locked(path)


def test_lock_waits_for_a_reader_of_its_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`is_file_locked` tries the lock, and holds it for a moment."""
    path = tmp_path / "lock"
    path.touch()
    with path.open() as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        monkeypatch.setattr(files.time, "sleep", lambda seconds: seconds and fcntl.flock(reader, fcntl.LOCK_UN))
        with file_lock(path, UserError("busy", "wait")):
            assert is_file_locked(path)


def test_remove_partials_removes_only_partials(tmp_path: Path) -> None:
    (tmp_path / f"{PARTIAL}folder").mkdir()
    (tmp_path / f"{PARTIAL}folder" / "file").write_text("x")
    (tmp_path / f"{PARTIAL}file").write_text("x")
    (tmp_path / "whole").write_text("x")
    remove_partials(tmp_path)
    assert names(tmp_path) == ["whole"]


def test_hash_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_text("abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_json_object_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"a": [1, None]}))
    assert read_json(tmp_path / "x.json", "it") == {"a": [1, None]}


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"7", b"\xff", b"[" * 100_000], ids=range(6))
def test_non_object_json_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_json(tmp_path / "x.json", "the thing")
    assert "the thing is damaged" in caught.value.message
    assert "x.json" in caught.value.message


def test_missing_json_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the thing is missing.*x\.json"):
        read_json(tmp_path / "x.json", "the thing")


def test_cache_folder_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "a"))
    assert cache_dir() == tmp_path / "a"
    monkeypatch.delenv("FLEDGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_dir() == tmp_path / "b" / "fledge"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "c"))
    assert cache_dir() == tmp_path / "c" / ".cache" / "fledge"


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (1_115_394, "1.1 MB"), (2.5e9, "2.5 GB"), (3e15, "3000.0 TB")],
)
def test_human_bytes(count: float, words: str) -> None:
    assert human_bytes(count) == words


@example(999_999)
@given(st.integers(0, 10**14))
def test_human_bytes_has_at_most_three_digits(count: int) -> None:
    assert float(human_bytes(count).split()[0]) < 1000


def test_written_file_respects_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_atomic(tmp_path / "private", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "private").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("told", "named"), [(None, "/data/run"), ("state.json", "/data/run/state.json"), ("/else/where", "/else/where")]
)
def test_os_error_gets_the_full_path(told: str | None, named: str) -> None:
    with pytest.raises(OSError, match="No space") as refusal, errors_with_path(Path("/data/run")):
        raise OSError(errno.ENOSPC, "No space left on device", told)
    assert refusal.value.filename == named


def test_failing_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="Input/output"):
        sync_folder(tmp_path)
