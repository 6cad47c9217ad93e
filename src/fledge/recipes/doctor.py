"""Inspect this machine: what fledge will use on it, and why."""

import platform
from dataclasses import dataclass

import torch

from fledge import __version__
from fledge.core import device as machines
from fledge.core.cgroups import usable_cores
from fledge.core.files import cache_dir, human_bytes


@dataclass(frozen=True)
class Finding:
    value: str
    why: str = ""  # empty where fledge has nothing to choose


def doctor() -> dict[str, Finding]:
    """The findings by name, in the order in which they are shown."""
    device = machines.choose_device()
    dtype = machines.choose_dtype(device.value)
    compiler = machines.find_compiler(device.value)
    threads = f"{usable_cores()} usable cores, {torch.get_num_threads()} threads"
    if compiler.value:
        compiled = Finding("if it saves time", "compiling takes about half a minute, which a long run recovers")
    else:
        compiled = Finding("no", compiler.why)
    return {
        "fledge": Finding(__version__),
        "python": Finding(platform.python_version()),
        "torch": Finding(torch.__version__),
        "processor": Finding(machines.processor(), threads),
        "memory": Finding(human_bytes(machines.total_memory("cpu"))),
        "devices": Finding(", ".join(machines.devices())),
        "device": Finding(device.value, device.why),
        "device_memory": Finding(human_bytes(machines.total_memory(device.value))),
        "precision": Finding(dtype.value, dtype.why),
        "compiler": Finding(compiler.value or "none", compiler.why),
        "compile": compiled,
        "attention": Finding("fused or blocked kernel", "measured for each model; --model.attention sets it"),
        "cache": Finding(str(cache_dir()), "datasets and downloads; set $FLEDGE_CACHE to move it"),
    }
