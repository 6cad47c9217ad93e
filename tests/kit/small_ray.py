"""A real, small Ray cluster: one node with two cores, to which this process is connected."""

import contextlib
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

TOKEN = secrets.token_hex(32)  # a process uses its first token for every later cluster, too


@contextlib.contextmanager
def small_ray() -> Iterator[str]:
    """Start it, and yield its address. Tests are skipped where Ray is not installed."""
    ray, filelock = pytest.importorskip("ray"), pytest.importorskip("filelock")
    lock = filelock.FileLock(Path(tempfile.gettempdir()) / "fledge-tests-ray.lock")
    at_sigterm = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch, short_folder() as folder:
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))  # for the workers
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)  # else Ray would write one into the home folder
        patch.setenv("RAY_AUTH_MODE", "token")  # restored at the end; Ray sets it itself
        patch.delenv("RAY_AUTH_MODE")
        with lock:  # two clusters that start at the same time may choose the same port
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
    """Ray keeps its sockets there, and the length of a socket's path is limited."""
    return tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)
