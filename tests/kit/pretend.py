"""Lets every Python process of a test run behave as on another machine, so that no test meets its own by chance.

FLEDGE_PRETEND="bf16=no cores=1 load=1.5 fsync=no absent=rich,orjson" is read when Python starts, if PYTHONPATH has this
folder. tests/conftest.py sets both; tests/machines.py tries many machines in turn.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from types import ModuleType
from typing import Any

PRETEND = dict(word.split("=") for word in os.environ.get("FLEDGE_PRETEND", "").split())
ABSENT = set(PRETEND.get("absent", "").split(",")) - {""}
real_fsync = os.fsync


class Pretending(importlib.abc.MetaPathFinder):
    """Packages that are not installed, a processor with or without bf16 units, the load of other programs."""

    def find_spec(self, name: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named '{name}' (pretended)", name=name)
        pretended = next((word for word, (module, _) in MODULES.items() if module == name and word in PRETEND), None)
        if pretended is None:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            usual = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                usual(module)
                MODULES[pretended][1](module, PRETEND[pretended])

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def pretend_processor(machine: Any, bf16: str) -> None:
    """With bf16 units the probe, too, has a fixed answer: three times the speed of fp32."""
    units, rates = machine.has_bf16_units, machine.matmul_rates
    machine.has_bf16_units = lambda device: bf16 == "yes" if device == "cpu" else units(device)
    machine.matmul_rates = lambda: (100.0, 300.0)
    machine.real = {"has_bf16_units": units, "matmul_rates": rates}


def pretend_load(threads: Any, load: str) -> None:
    """Other programs keep so many cores busy, whatever runs beside the tests."""
    threads.other_load = lambda: float(load)


MODULES = {
    "bf16": ("fledge.core.device", pretend_processor),
    "load": ("fledge.core.threads", pretend_load),
}
if PRETEND:
    sys.meta_path.insert(0, Pretending())
if "cores" in PRETEND and hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(PRETEND["cores"])])
if (
    PRETEND.get("fsync") == "no"
):  # a disk that writes at once: no test can see the difference, and thousands wait for it

    def no_fsync(_: int) -> None: ...

    os.fsync = no_fsync  # type: ignore[assignment]
