"""How far a decoder is from the limit of the memory: each step reads all weights and the used part of the cache."""

import math
import time

import torch

from fledge.core.device import DTYPES, Machine, cached_measurement
from fledge.model.config import ModelConfig
from fledge.model.flops import cache_bytes_per_token, matrix_parameters

BYTES, ROUNDS = 256 << 20, 20  # far more than the caches of a processor


def bytes_per_step(config: ModelConfig, dtype: str, rows: int, length: int) -> int:
    """Bytes that one step of `rows` rows reads: weights once, and `length` keys and values of each row.

    Of the cache, 16 bits are counted, whatever a decoder uses.
    """
    seen, itemsize = min(length, config.attention_span), 1 if dtype == "int8" else DTYPES[dtype].itemsize
    return itemsize * matrix_parameters(config) + rows * seen * cache_bytes_per_token(config)


def memory_bandwidth(machine: Machine) -> float:
    """Bytes per second that this device reads, measured once."""
    where = "memory of the GPU" if machine.device != "cpu" else "memory"
    return cached_measurement(where, lambda: {"bytes_per_second": measure_read(machine)})["bytes_per_second"]


def measure_read(machine: Machine) -> float:
    """Sums a large tensor; the fastest of some rounds, as other programs only slow them down."""
    numbers, fastest = torch.ones(BYTES // 4, device=machine.device), math.inf
    for _ in range(ROUNDS + 1):
        begun = time.perf_counter()
        numbers.sum().item()  # waits for a GPU
        fastest = min(fastest, time.perf_counter() - begun)
    return BYTES / fastest
