"""Device, dtype, compiler and memory of this machine: `Machine` is a value that is passed down, not a global.

Chooses them and gives the reason (`fledge doctor`). Moves no tensors and wraps no models.
"""

import contextlib
import math
import os
import platform
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch

from fledge.core.cgroups import limits
from fledge.core.distributed import SINGLE_PROCESS, World
from fledge.core.errors import UserError
from fledge.core.files import cache_dir, read_json, to_json, write_atomic
from fledge.core.threads import default_threads, other_load, threads_beside

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
THREADS_OF_TORCH = torch.get_num_threads()  # its own choice, usually one for each physical core
MIN_BF16_SPEEDUP = 1.5  # bf16 must be this many times as fast as fp32, as it is less precise


Device = Literal["cpu", "cuda", "mps"]
Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Machine:
    """Where this process computes. Code that depends on the hardware takes it as an argument."""

    device: Device
    dtype: Dtype  # of matrix products (autocast); weights and optimizer state stay float32
    world: World = SINGLE_PROCESS  # the process group it belongs to

    @property
    def threads(self) -> int:
        """Threads that compute on the CPU: `set_threads` has set them."""
        return torch.get_num_threads()

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, dtype=self.torch_dtype, enabled=self.dtype != "float32")


@dataclass(frozen=True)
class Chosen:
    """A choice and its reason, for `fledge doctor` and warnings."""

    value: str
    why: str


def devices() -> list[str]:
    found = ["cpu"]
    if torch.cuda.is_available():
        found.append("cuda")
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def choose_device(wanted: str = "auto") -> Chosen:
    found = devices()
    if wanted == "auto":
        why = {"cuda": "a CUDA GPU is present", "mps": "an Apple GPU is present", "cpu": "no GPU was found"}
        best = next(d for d in ("cuda", "mps", "cpu") if d in found)
        return Chosen(best, why[best])
    if wanted not in found:
        raise UserError(f"the device '{wanted}' is not on this machine", f"it has: {', '.join(found)}")
    return Chosen(wanted, "set explicitly")


def has_bf16_units(device: str) -> bool:
    """Whether the hardware multiplies in bf16; emulation would be slower than fp32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def has_units(device: str, dtype: str) -> bool:
    """Whether the hardware has matrix units for this dtype."""
    if dtype == "bfloat16":
        return has_bf16_units(device)
    if dtype == "float16":
        return device == "cuda" or (device == "cpu" and bool(torch.cpu._is_amx_fp16_supported()))
    return True


def choose_dtype(device: str, wanted: str = "auto") -> Chosen:
    """bf16 where the hardware has units for it and, on a CPU, a short measurement shows that it is faster."""
    if wanted in ("bfloat16", "float16") and device == "mps":
        raise UserError(f"train.dtype '{wanted}' is not used on an Apple GPU", "use --train.dtype float32")
    if wanted != "auto":
        return Chosen(wanted, "set explicitly")
    if device == "cuda" and not has_bf16_units(device):
        return Chosen("float16", "the GPU has fp16 matrix units, but no bf16 ones")
    if not has_bf16_units(device):
        return Chosen("float32", f"this {device} has no bf16 matrix units")
    if device == "cuda":
        return Chosen("bfloat16", "the GPU has bf16 matrix units")
    slow, fast = matmul_rates()
    measured = f"measured {fast:.0f} GFLOP/s in bf16 against {slow:.0f} in fp32"
    return Chosen("bfloat16" if fast > MIN_BF16_SPEEDUP * slow else "float32", measured)


def matmul_rates(seconds: float = 0.8, size: int = 768) -> tuple[float, float]:
    """GFLOP/s of matrix products on the CPU, in fp32 and in bf16."""
    rates = cached_measurement("matrix products", lambda: _measure_matmul(seconds, size))
    return rates["float32"], rates["bfloat16"]


def _measure_matmul(seconds: float, size: int) -> dict[str, float]:
    """Both in turns, best of each: other load on the machine then slows both or neither."""
    fastest = dict.fromkeys(("float32", "bfloat16"), math.inf)
    chance = torch.Generator().manual_seed(0)  # of its own: a run measures between two steps, and its numbers stay
    matrices = {name: torch.randn(size, size, dtype=DTYPES[name], generator=chance) for name in fastest}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or math.inf in fastest.values():
        for name, matrix in matrices.items():
            matrix @ matrix  # warmup
            begin = time.perf_counter()
            matrix @ matrix
            fastest[name] = min(fastest[name], time.perf_counter() - begin)
    return {name: 2 * size**3 / spent / 1e9 for name, spent in fastest.items()}


def cached_measurement(what: str, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Measure once and keep the result in the cache, so that the same machine always decides the same way."""
    key = f"{what}: {processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    cache_file, known = cache_dir() / "machine.json", dict[str, dict[str, float]]()
    with contextlib.suppress(OSError, UserError):
        known = read_json(cache_file, "the cache of measurements")
    with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
        remembered = {name: float(number) for name, number in known[key].items()}
        if remembered and all(map(math.isfinite, remembered.values())):
            return remembered
    found = measure()
    with contextlib.suppress(OSError, UserError, TypeError):
        write_atomic(cache_file, to_json({**known, key: found}, indent=1))
    return found


def find_compiler(device: str) -> Chosen:
    """The C++ compiler that torch.compile would use."""
    if device == "mps":
        return Chosen("", "torch.compile is not used on Apple GPUs")
    name = os.environ.get("CXX") or ("clang++" if platform.system() == "Darwin" else "g++")  # as torch chooses
    path = shutil.which(name)
    return Chosen(path, "found") if path else Chosen("", f"no C++ compiler ({name}) on the PATH")


def choose_machine(
    device: str = "auto", dtype: str = "auto", world: World = SINGLE_PROCESS, threads: int | None = None
) -> Machine:
    """The main process chooses for all ranks, because measurements vary between ranks. `threads`: None chooses, too."""
    where = cast(Device, choose_device(world.broadcast_from_main(lambda: choose_device(device).value)).value)
    select_device(where, world)
    set_threads(threads, where, world)
    return Machine(where, cast(Dtype, world.broadcast_from_main(lambda: choose_dtype(where, dtype).value)), world)


def set_threads(threads: int | None, device: Device, world: World = SINGLE_PROCESS) -> None:
    """The only place that sets the number of threads. On a GPU torch's own choice stays, unless `threads` is given."""
    if threads is None:
        threads = default_threads(THREADS_OF_TORCH) if device == "cpu" else THREADS_OF_TORCH
        threads = int(world.broadcast_from_main(lambda: str(threads)))
    torch.set_num_threads(threads)


def leave_busy_cores(machine: Machine) -> None:
    """Use fewer threads where other programs keep a few of many cores busy: see `threads_beside`."""
    if machine.device == "cpu" and machine.world.size == 1 and "OMP_NUM_THREADS" not in os.environ:
        set_threads(threads_beside(machine.threads, other_load), "cpu")


def select_device(device: Device, world: World) -> None:
    """Each process of a node takes its own GPU."""
    if device == "mps" and world.size > 1:
        raise UserError(
            "an Apple GPU can be used by one process only", "start without torchrun, or use --train.device cpu"
        )
    if device == "cuda":
        count = torch.cuda.device_count()
        if world.local_rank >= count:
            raise UserError(
                f"rank {world.rank} has no GPU: it is process {world.local_rank + 1} on this machine, which has {count}"
                " visible GPUs",
                f"torchrun --nproc-per-node {count}, or add GPUs to CUDA_VISIBLE_DEVICES",
            )
        torch.cuda.set_device(world.local_rank)


def processor() -> str:
    """The model name of the processor, where the system gives one."""
    try:
        with Path("/proc/cpuinfo").open() as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def hardware(device: str) -> str:
    """The name of the GPU or the processor."""
    return torch.cuda.get_device_name() if device == "cuda" else processor()


def total_memory(device: str) -> int:
    if device == "cuda":
        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *(limit.total for limit in limits())])


def free_memory(device: str) -> int:
    """Bytes that can be allocated now. On a CPU the system's estimate (MemAvailable), limited by cgroups."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    free = total_memory(device)
    with contextlib.suppress(OSError, StopIteration), Path("/proc/meminfo").open() as lines:
        free = 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:")))
    return min([free, *(max(0, limit.total - limit.used) for limit in limits())])


def reset_peak_memory(device: str) -> None:
    """Reset what `peak_memory` reports, where the system supports it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: resets VmHWM


def peak_memory(device: str) -> int:
    """Peak bytes: on a GPU of tensors, on a CPU of the whole process, Python and torch included."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    with contextlib.suppress(OSError, StopIteration):
        status = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak << 10
