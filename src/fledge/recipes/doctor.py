"""Inspect this machine: what fledge will use on it, and why."""

import os
import platform
from dataclasses import dataclass
from typing import cast

import torch

from fledge import __version__
from fledge.core import device as machines
from fledge.core.cgroups import usable_cores
from fledge.core.device import Machine
from fledge.core.files import cache_dir, human_bytes
from fledge.core.formatting import counted
from fledge.core.threads import (
    BUSY_SPIN_COUNT,
    NOTICED_LOAD,
    SPIN_COUNT,
    SPINS,
    default_threads,
    describe_load,
    other_load,
    waiting_policy,
)
from fledge.inference.bandwidth import memory_bandwidth
from fledge.inference.choose_decoder import candidates


@dataclass(frozen=True)
class Finding:
    value: str
    why: str = ""  # empty where fledge has nothing to choose


def doctor() -> dict[str, Finding]:
    """The findings by name, in the order in which they are shown."""
    device = machines.choose_device()
    dtype = machines.choose_dtype(device.value)
    compiler = machines.find_compiler(device.value)
    cores = usable_cores()
    if compiler.value:
        compiled = Finding("if it saves time", "compiling takes about half a minute, which a long run recovers")
    else:
        compiled = Finding("no", compiler.why)
    return {
        "fledge": Finding(__version__),
        "python": Finding(platform.python_version()),
        "torch": Finding(torch.__version__),
        "processor": Finding(machines.processor(), counted(cores, "usable core")),
        "threads": threads(),
        "waiting": waiting(),
        "load": load(other_load(), cores),
        "memory": Finding(human_bytes(machines.total_memory("cpu"))),
        "devices": Finding(", ".join(machines.devices())),
        "device": Finding(device.value, device.why),
        "device_memory": Finding(human_bytes(machines.total_memory(device.value))),
        "precision": Finding(dtype.value, dtype.why),
        "compiler": Finding(compiler.value or "none", compiler.why),
        "compile": compiled,
        "attention": Finding("fused or blocked kernel", "measured for each model; --model.attention sets it"),
        "inference": inference(Machine(cast(machines.Device, device.value), "float32")),
        "cache": Finding(str(cache_dir()), "datasets and downloads; set $FLEDGE_CACHE to move it"),
    }


def inference(machine: Machine) -> Finding:
    """What may be chosen for a model, and the memory bandwidth, which limits a single stream."""
    paths = candidates(machine, "auto")
    kinds = " or ".join(dict.fromkeys(path.kind for path in paths))
    dtypes = " or ".join(dict.fromkeys(path.dtype for path in paths))
    bandwidth = f"memory is read at {memory_bandwidth(machine) / 1e9:.0f} GB/s"
    return Finding(f"{kinds} products in {dtypes}", f"the fastest is measured for each model; {bandwidth}")


def threads() -> Finding:
    set_outside = "OMP_NUM_THREADS" in os.environ
    why = "OMP_NUM_THREADS is set" if set_outside else "one for each usable core; --train.threads sets it"
    return Finding(str(default_threads(machines.THREADS_OF_TORCH)), why)


def waiting() -> Finding:
    """How OpenMP threads wait for each other."""
    policy = waiting_policy()
    if policy == f"{SPINS}={SPIN_COUNT}":
        return Finding(policy, "threads that wait soon leave their core to other programs")
    if policy == f"{SPINS}={BUSY_SPIN_COUNT}":
        return Finding(policy, "threads that wait leave their core to other programs at once, as the machine is busy")
    return Finding(policy or "OpenMP's default", f"recommended: {SPINS}={SPIN_COUNT}, fledge sets it where you do not")


def load(cores_in_use: float | None, cores: int) -> Finding:
    """What other programs leave to training."""
    if cores_in_use is None:
        return Finding("unknown", "this system has no /proc/stat")
    if cores_in_use < NOTICED_LOAD:
        return Finding(f"other programs use {cores_in_use:.1f} of {counted(cores, 'core')}", "the machine is free")
    return Finding(describe_load(cores_in_use, cores), "training takes longer, with the same results")
