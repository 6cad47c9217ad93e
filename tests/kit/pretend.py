"""Lets every Python process of a test run behave as on another machine, so that no test meets its own by chance.

FLEDGE_PRETEND="bf16=no cores=1 absent=rich,orjson" is read when Python starts, if this folder is on PYTHONPATH.
tests/conftest.py sets both; tests/machines.py tries many machines in turn.
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
MACHINE = "fledge.core.device"


class Pretending(importlib.abc.MetaPathFinder):
    """Packages that are not installed, and a processor with or without bf16 units."""

    def find_spec(self, name: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named '{name}' (pretended)", name=name)
        if name != MACHINE or "bf16" not in PRETEND:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            usual = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                usual(module)
                pretend_processor(module, PRETEND["bf16"] == "yes")

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def pretend_processor(machine: Any, bf16: bool) -> None:
    """With bf16 units the probe, too, has a fixed answer: three times the speed of fp32."""
    units, rates = machine.has_bf16_units, machine.matmul_rates
    machine.has_bf16_units = lambda device: bf16 if device == "cpu" else units(device)
    machine.matmul_rates = lambda: (100.0, 300.0)
    machine.real = {"has_bf16_units": units, "matmul_rates": rates}


if PRETEND:
    sys.meta_path.insert(0, Pretending())
if "cores" in PRETEND and hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(PRETEND["cores"])])
