"""Freed memory is kept: sooner or later, what is allocated again costs no new pages."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from fledge.core.malloc import keep_freed_memory

def new_pages() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(size << 18) for size in (16, 24, 40, 16)]  # MiB
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if {keep}:
    keep_freed_memory()
print(min(new_pages() for _ in range(12)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_memory_is_not_given_back() -> None:
    given_back, kept = (
        int(subprocess.run([sys.executable, "-c", SCRIPT.format(keep=keep)], capture_output=True, check=True).stdout)
        for keep in (False, True)
    )
    if given_back < 100:
        pytest.skip("this C library keeps it anyway")
    assert kept < 100
