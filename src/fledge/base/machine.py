"""What this machine is and what fledge uses on it: a value that is passed down, never a hidden global.

Decides device, dtype and compiler, and can say why. Moves no tensors and wraps no models.
"""

import os
import platform
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch

from fledge.base.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WORTH_IT = 1.5  # bf16 must beat fp32 by this much before its lost digits are worth it


Device = Literal["cpu", "cuda", "mps"]
Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Machine:
    """Where this process computes. Everything that depends on hardware is asked of this value."""

    device: Device
    dtype: Dtype  # what matrix products are done in; weights and optimiser always stay float32
    rank: int = 0
    world_size: int = 1

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, dtype=self.torch_dtype, enabled=self.dtype != "float32")


@dataclass(frozen=True)
class Choice:
    """A decision and its reason, for `fledge doctor` and for the log."""

    value: str
    why: str


def devices() -> list[str]:
    found = ["cpu"]
    if torch.cuda.is_available():
        found.append("cuda")
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def choose_device(wanted: str = "auto") -> Choice:
    found = devices()
    if wanted == "auto":
        why = {"cuda": "a CUDA GPU is present", "mps": "an Apple GPU is present", "cpu": "no GPU was found"}
        best = next(d for d in ("cuda", "mps", "cpu") if d in found)
        return Choice(best, why[best])
    if wanted not in found:
        raise UserError(f"the device '{wanted}' is not on this machine", f"it has: {', '.join(found)}")
    return Choice(wanted, "you asked for it")


def has_bf16_units(device: str) -> bool:
    """Whether the hardware multiplies in bf16 at all; emulation would be slower than fp32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def choose_dtype(device: str, wanted: str = "auto") -> Choice:
    """bf16 where the hardware has it and, on a CPU, where a short probe shows that it pays."""
    if wanted == "bfloat16" and device == "mps":
        raise UserError("train.dtype 'bfloat16' is not used on an Apple GPU", "use --train.dtype float32")
    if wanted != "auto":
        return Choice(wanted, "you asked for it")
    if not has_bf16_units(device):
        return Choice("float32", f"this {device} has no bf16 matrix units")
    if device == "cuda":
        return Choice("bfloat16", "the GPU has bf16 matrix units")
    slow, fast = matmul_rate("float32"), matmul_rate("bfloat16")
    measured = f"measured {fast:.0f} GFLOP/s in bf16 against {slow:.0f} in fp32"
    return Choice("bfloat16" if fast > WORTH_IT * slow else "float32", measured)


def matmul_rate(dtype: str, device: str = "cpu", seconds: float = 0.4, size: int = 768) -> float:
    """GFLOP/s of plain matrix products; a second is enough for an honest figure."""
    a = torch.randn(size, size, device=device, dtype=DTYPES[dtype])
    rounds, spent = 0, 0.0
    for _ in range(3):
        a @ a  # warm up: threads, caches, kernel choice
    start = time.perf_counter()
    while spent < seconds:
        (a @ a).sum().item()
        rounds += 1
        spent = time.perf_counter() - start
    return 2 * size**3 * rounds / spent / 1e9


def find_compiler(device: str) -> Choice:
    """torch.compile writes C++ for a CPU and Triton for a GPU; the first needs a compiler on the machine."""
    if device == "mps":
        return Choice("", "torch.compile is not used on Apple GPUs")
    name = os.environ.get("CXX") or "g++"
    for candidate in dict.fromkeys((name, "g++", "clang++")):
        if path := shutil.which(candidate):
            return Choice(path, "found")
    return Choice("", f"no C++ compiler ({name}) on the PATH")


def choose(device: str = "auto", dtype: str = "auto") -> Machine:
    where = cast(Device, choose_device(device).value)
    return Machine(where, cast(Dtype, choose_dtype(where, dtype).value))


def processor() -> str:
    """The processor's own name, where the system tells it."""
    try:
        with Path("/proc/cpuinfo").open() as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def total_memory(device: str) -> int:
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cores() -> int:
    """Cores this process may use, which in a container is fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
