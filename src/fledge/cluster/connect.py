"""Joining a Ray cluster, or starting a small one here for the time of some work. What is done there is for others."""

import contextlib
import importlib
import logging
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

from fledge import __version__
from fledge.core.errors import UserError
from fledge.core.signals import handlers_restored

CONNECT_TIMEOUT = 5  # seconds


def require_ray(wanted_by: str, module: str = "ray") -> None:
    try:
        importlib.import_module(module)
    except ImportError:
        raise UserError(f"{wanted_by} needs Ray, which is not installed", "pip install 'fledge[ray]'") from None


def check_reachable(address: str) -> None:
    """Ray itself tries for a quarter of an hour to reach what is not there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT).close()
    except (ValueError, OverflowError, OSError):
        hint = "check --address: it is HOST:PORT, as 'ray start --head' prints it"
        raise UserError(f"there is no Ray cluster at '{address}'", hint) from None


@contextlib.contextmanager
def ray_session(address: str | None) -> Iterator[None]:
    """The cluster at `address`, or one that is started here; or the one that this process has joined before."""
    import ray

    if ray.is_initialized():
        yield
        return
    with contextlib.redirect_stdout(sys.stderr):  # Ray prints what becomes of its workers; stdout is for results
        _connect(address or "local")
        try:
            _require_same_code()
            yield
        finally:
            ray.shutdown()


def _connect(address: str) -> None:
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told that fledge runs here
    try:
        with handlers_restored():  # Ray would turn SIGTERM into an ordinary exit with status 15
            ray.init(address=address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    except (ray.exceptions.RayError, ConnectionError, ValueError, RuntimeError) as error:
        hint = "check --address; where the cluster asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        raise UserError(f"could not join Ray at '{address}': {first_line(error)}", hint) from None


def _require_same_code() -> None:
    """Workers with another fledge, or none, would make something else, or nothing."""
    import ray

    def version() -> str:  # goes to the worker as it stands here
        try:
            from fledge import __version__
        except ImportError:
            return "none"
        return __version__

    there = ray.get(ray.remote(version).remote())
    if there != __version__:
        hint = "install the same one on all its machines"
        raise UserError(f"this is fledge {__version__}, and the Ray cluster has {there}", hint)


def ray_error(error: Exception) -> UserError:
    return UserError(
        f"Ray gave up: {first_line(error)}", "its machines need this very fledge, and must all see the files"
    )


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


# How large it is, once it has been joined


def ray_nodes() -> list[tuple[int, int]]:
    """The cores and the GPUs of each."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    there = [node["Resources"] for node in nodes if node["Alive"]]
    return [(int(found["CPU"]), int(found.get("GPU", 0))) for found in there if found.get("CPU", 0) >= 1]


def cores_per_worker(machines: list[tuple[int, int]], count: int, *, with_gpu: bool) -> int:
    """The most that `count` workers can have at a time, none of them on two machines; 0 if there is no room for all."""

    def places(each: int) -> int:
        return sum(min(cores // each, gpus) if with_gpu else cores // each for cores, gpus in machines)

    most = max((cores for cores, _ in machines), default=0)
    return next((each for each in range(most, 0, -1) if places(each) >= count), 0)
