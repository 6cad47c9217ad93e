"""A real Ray of two workers, which this process has joined."""

import contextlib
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

TOKEN = secrets.token_hex(32)  # a process that has shown one to a Ray shows it to all that follow


@contextlib.contextmanager
def small_ray() -> Iterator[str]:
    """Its address, for the time of the block. Whoever lacks Ray is skipped."""
    ray, filelock = pytest.importorskip("ray"), pytest.importorskip("filelock")
    lock = filelock.FileLock(Path(tempfile.gettempdir()) / "fledge-tests-ray.lock")
    at_sigterm = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch, short_folder() as folder:
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))  # workers find what we find
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)  # else Ray would write one into a home
        patch.setenv("RAY_AUTH_MODE", "token")  # to be as it was, later; Ray itself sets it now
        patch.delenv("RAY_AUTH_MODE")
        with lock:  # two that start at the same time may choose the same port
            session = ray.init(
                "local",
                num_cpus=2,
                include_dashboard=False,
                object_store_memory=80 << 20,  # bytes: about the least that Ray takes
                log_to_driver=False,
                logging_level="ERROR",
                _temp_dir=folder,
            )
        signal.signal(signal.SIGTERM, at_sigterm)
        yield session.address_info["gcs_address"]
        ray.shutdown()


def short_folder() -> "tempfile.TemporaryDirectory[str]":
    """Ray keeps sockets in it, and their names have little room."""
    return tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)
