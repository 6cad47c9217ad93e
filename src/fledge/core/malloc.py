"""Memory that stays with the process. Imports no torch.

glibc gives large blocks back to the system as soon as they are freed, and the system clears their pages when they are
wanted again. A training step frees and wants hundreds of megabytes: on a CPU, that is a fifth of its time.
"""

import ctypes
import sys

# Numbers of glibc's mallopt, in its malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
LARGEST = 2**31 - 1  # of a C int


def keep_freed_memory() -> None:
    """From now on, freed memory is kept for what is allocated next. Only where the C library is glibc."""
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(M_MMAP_MAX, 0)  # no mappings of their own for large blocks
        library.mallopt(M_TRIM_THRESHOLD, LARGEST)  # up to 2 GiB at the end of the heap are kept, too
