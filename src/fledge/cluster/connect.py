"""Connect to a Ray cluster, or start a small local one for the duration of a block."""

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


def require_ray(option: str, module: str = "ray") -> None:
    """Raise a UserError where Ray is not installed; `option` is the command-line option that needs it."""
    try:
        importlib.import_module(module)
    except ImportError:
        raise UserError(f"{option} needs Ray, which is not installed", "pip install 'fledge[ray]'") from None


def check_reachable(address: str) -> None:
    """Refuse an address where nothing listens: Ray itself would retry for a quarter of an hour."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT).close()
    except (ValueError, OverflowError, OSError):
        hint = "check --address: it is HOST:PORT, as 'ray start --head' prints it"
        raise UserError(f"there is no Ray cluster at '{address}'", hint) from None


@contextlib.contextmanager
def ray_session(address: str | None) -> Iterator[None]:
    """Connect to the cluster at `address`, or start a local one; an existing connection is reused and kept."""
    import ray

    if ray.is_initialized():
        yield
        return
    with contextlib.redirect_stdout(sys.stderr):  # Ray prints worker failures; stdout is for results
        _connect(address or "local")
        try:
            _require_same_version()
            yield
        finally:
            ray.shutdown()


def _connect(address: str) -> None:
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    try:
        with handlers_restored():  # Ray would turn SIGTERM into an ordinary exit with status 15
            ray.init(address=address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    except (ray.exceptions.RayError, ConnectionError, ValueError, RuntimeError) as error:
        hint = "check --address; if the cluster needs a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        raise UserError(f"could not connect to Ray at '{address}': {first_line(error)}", hint) from None


def _require_same_version() -> None:
    """Refuse a cluster whose workers have another version of fledge, or none."""
    import ray

    def version() -> str:  # pickled by value, so it runs on workers without fledge, too
        try:
            from fledge import __version__
        except ImportError:
            return "none"
        return __version__

    there = ray.get(ray.remote(version).remote())
    if there != __version__:
        hint = "install the same version on every machine of the cluster"
        raise UserError(f"this is fledge {__version__}, and the Ray cluster has {there}", hint)


def ray_error(error: Exception) -> UserError:
    return UserError(
        f"Ray failed: {first_line(error)}",
        "every machine of the cluster needs the same version of fledge and must see the same files",
    )


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def ray_nodes() -> list[tuple[int, int]]:
    """(cores, GPUs) of each live node that has a core. Needs a connection."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    return [(int(each["CPU"]), int(each.get("GPU", 0))) for each in resources if each.get("CPU", 0) >= 1]


def cores_per_worker(nodes: list[tuple[int, int]], count: int, *, with_gpu: bool) -> int:
    """The most cores that each of `count` workers can have, each on one node; 0 if they do not all fit."""

    def slots(cores_each: int) -> int:
        return sum(min(cores // cores_each, gpus) if with_gpu else cores // cores_each for cores, gpus in nodes)

    most = max((cores for cores, _ in nodes), default=0)
    return next((each for each in range(most, 0, -1) if slots(each) >= count), 0)
