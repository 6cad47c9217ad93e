"""What goes wrong is said in one line, with one line of what to do."""

import errno
import os

import pytest

from fledge.core.errors import Interrupted, UserError, nearest, out_of_memory, to_user_error


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_any_os_error_has_a_message_and_a_hint(number: int) -> None:
    mistake = to_user_error(OSError(number, os.strerror(number), "some/file"))
    for text in (mistake.message, mistake.hint):
        assert text
        assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("number", "word"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EIO, "disk failed"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.ENOENT, "no such file"),
        (errno.EISDIR, "folder"),
    ],
)
def test_common_os_errors_are_explained_with_the_file(number: int, word: str) -> None:
    message = to_user_error(OSError(number, os.strerror(number), "some/file")).message
    assert word in message
    assert "'some/file'" in message


def test_os_error_without_a_file() -> None:
    assert "None" not in to_user_error(OSError(errno.ENOSPC, "No space left on device")).message


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        RuntimeError("std::bad_alloc"),
    ],
    ids=str,
)
def test_out_of_memory_is_recognized_on_all_devices(error: RuntimeError | MemoryError) -> None:
    assert out_of_memory(error)
    assert "memory" in to_user_error(error).message


def test_other_errors_are_not_out_of_memory() -> None:
    assert not out_of_memory(RuntimeError("shapes do not match"))
    assert not out_of_memory(UserError("the file 'out of memory.txt' is missing", "write it"))


def test_nearest_needs_similarity() -> None:
    assert nearest("trian", ["train", "resume"]) == "did you mean 'train'?"
    assert nearest("xyz", ["train", "resume"]) == ""
    assert nearest("train", []) == ""


def test_user_error_is_a_value_error() -> None:
    error = UserError("what", "how")
    assert isinstance(error, ValueError)
    assert str(error) == "what"


@pytest.mark.parametrize(("signal", "code"), [(2, 130), (15, 143)])
def test_an_interrupted_run_owes_the_exit_status_of_its_signal(signal: int, code: int) -> None:
    assert Interrupted(signal, "fledge resume x").code == code
