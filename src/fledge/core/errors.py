"""Errors that the user can fix: one line says what is wrong, one line what to do.

Violated invariants of our own code are asserts: bugs, which show a traceback.
"""

import difflib
import errno
from collections.abc import Iterable


class UserError(ValueError):
    """Something outside the program is wrong. `hint` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type["UserError"], tuple[str, str]]:
        return type(self), (self.message, self.hint)  # for pickling between processes


class Interrupted(Exception):
    """The run was stopped by a signal and has saved a checkpoint. `code` is the exit status."""

    def __init__(self, signal_number: int, resume_with: str) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.code = 128 + signal_number
        self.resume_with = resume_with


SIMILAR = 0.72  # of difflib: a letter or two are wrong. At 0.6, "--resume" is like "--run"


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean 'n_layer'?`, or an empty string if nothing is similar."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=SIMILAR)
    return f"did you mean '{close[0]}'?" if close else ""


MEMORY_MESSAGES = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc")


def out_of_memory(error: BaseException) -> bool:
    """Whether it is an out-of-memory error: torch raises a RuntimeError whose message depends on the device."""
    torch_says = isinstance(error, RuntimeError) and any(message in str(error) for message in MEMORY_MESSAGES)
    return torch_says or isinstance(error, MemoryError)


def to_user_error(error: OSError | MemoryError | RuntimeError) -> UserError:
    """An error of the operating system → message and hint."""
    if not isinstance(error, OSError):
        return UserError("this does not fit in memory", "make the batch, the context or the model smaller")
    where = f" '{error.filename}'" if error.filename else ""
    reasons = {
        errno.ENOSPC: (f"the disk is full: could not write{where}", "free some space, then run the same command again"),
        errno.EDQUOT: (f"the disk quota is used up: could not write{where}", "free some space, then run it again"),
        errno.EIO: (f"the disk failed: could not read or write{where}", "check the disk, then run it again"),
        errno.EROFS: (f"the file system is read-only: could not write{where}", "choose a writable folder"),
        errno.EACCES: (f"permission denied:{where}", "choose a folder that you can read and write"),
        errno.EPERM: (f"operation not permitted:{where}", "choose a folder that you can read and write"),
        errno.ENOENT: (f"no such file or folder:{where}", "check the path"),
        errno.ENOTDIR: (f"not a folder:{where}", "choose another path"),
        errno.EEXIST: (f"already exists:{where}", "choose another path"),
        errno.EISDIR: (f"is a folder, not a file:{where}", "choose another path"),
        errno.ENAMETOOLONG: ("that name is too long for the file system", "choose a shorter name"),
        errno.EMFILE: ("too many open files", "raise the limit with 'ulimit -n 4096'"),
    }
    known = reasons.get(error.errno or 0)
    message, hint = known or (f"{error.strerror or error}{where}", "run again with --debug to see where this happened")
    return UserError(message, hint)
