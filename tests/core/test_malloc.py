"""Freed memory is kept: what is allocated again costs no new pages."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from fledge.core.malloc import keep_freed_memory

def faults() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 << 18)  # 64 MiB, which are freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if {keep}:
    keep_freed_memory()
faults()
print(faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_memory_is_not_given_back() -> None:
    given_back, kept = (
        int(subprocess.run([sys.executable, "-c", SCRIPT.format(keep=keep)], capture_output=True, check=True).stdout)
        for keep in (False, True)
    )
    assert kept < 100
    if given_back < 100:
        pytest.skip("this C library keeps it anyway")
