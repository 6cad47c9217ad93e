"""fledge doctor: what this machine is, what fledge will use on it, and why."""

import argparse
import platform
from typing import Any

import torch

from fledge import __version__
from fledge.cli.output import report
from fledge.core import device as machines
from fledge.core.cgroups import usable_cores
from fledge.core.files import cache_dir, human_bytes


def run(args: argparse.Namespace) -> None:
    found = examine()
    width = max(len(name) for name in found)
    lines = [
        f"{name.replace('_', ' '):<{width}}  {fact['value']}  ({fact['why']})"
        if fact["why"]
        else f"{name.replace('_', ' '):<{width}}  {fact['value']}"
        for name, fact in found.items()
    ]
    report(found, as_json=args.json, text="\n".join(lines))


def examine() -> dict[str, dict[str, Any]]:
    """Each finding as a value and, where fledge chooses something because of it, the reason."""
    device = machines.choose_device()
    dtype = machines.choose_dtype(device.value)
    compiler = machines.find_compiler(device.value)
    facts: dict[str, tuple[Any, str]] = {
        "fledge": (__version__, ""),
        "python": (platform.python_version(), ""),
        "torch": (torch.__version__, ""),
        "processor": (machines.processor(), f"{usable_cores()} cores for fledge, {torch.get_num_threads()} threads"),
        "memory": (human_bytes(machines.total_memory("cpu")), ""),
        "devices": (", ".join(machines.devices()), ""),
        "device": (device.value, device.why),
        "device_memory": (human_bytes(machines.total_memory(device.value)), ""),
        "precision": (dtype.value, dtype.why),
        "compiler": (compiler.value or "none", compiler.why),
        "compile": (
            "when it pays" if compiler.value else "no",
            "long runs earn the half minute back" if compiler.value else compiler.why,
        ),
        "attention": (
            "a fused kernel, or blocks of matrix products",
            "measured for each model; --model.attention sets it",
        ),
        "cache": (str(cache_dir()), "datasets and downloads; $FLEDGE_CACHE moves it"),
    }
    return {name: {"value": value, "why": why} for name, (value, why) in facts.items()}
