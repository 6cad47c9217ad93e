"""The fastest attention on this machine: measured once, cached, and saved in the settings of the run."""

import statistics
import time
from typing import Literal

import torch

from fledge.core.device import Machine, cached_measurement
from fledge.model.attention import ATTENTIONS
from fledge.model.config import ModelConfig

TOKENS = 4096  # of the measured batch
ROUNDS, SECONDS = 5, 1.0  # whichever ends first
MIN_SPEEDUP = 1.1  # over the fused kernel: less is not worth the memory for the attention weights


def fastest_attention(model: ModelConfig, sequences: int, machine: Machine) -> Literal["sdpa", "blocked"]:
    """The fused kernel on a GPU. On a CPU in bf16, matrix products can be faster, much faster at short contexts."""
    if machine.device != "cpu" or machine.dtype == "float32":
        return "sdpa"
    rows = max(1, min(sequences, TOKENS // model.context))
    shape = {"B": rows, "H": model.n_head, "K": model.kv_heads, "T": model.context, "D": model.head_width}
    name = f"attention {shape}, window {model.window}, {machine.dtype}"

    def blocked_wins() -> str:
        seconds = cached_measurement(name, lambda: measure_attention(model, rows, machine.torch_dtype))
        return "blocked" if seconds["sdpa"] > MIN_SPEEDUP * seconds["blocked"] else ""

    return "blocked" if machine.world.broadcast_from_main(blocked_wins) else "sdpa"  # all ranks use one measurement


def measure_attention(model: ModelConfig, rows: int, dtype: torch.dtype) -> dict[str, float]:
    """Median seconds of a forward and backward pass, the kinds in turns."""
    chance = torch.Generator().manual_seed(0)  # of its own: a measurement changes no number of the run

    def heads(count: int) -> torch.Tensor:
        x = torch.randn(rows, model.context, count, model.head_width, dtype=dtype, generator=chance)
        return x.transpose(1, 2).requires_grad_()  # the memory layout after the projections

    q, k, v = heads(model.n_head), heads(model.kv_heads), heads(model.kv_heads)
    spent: dict[str, list[float]] = {"sdpa": [], "blocked": []}
    end = time.perf_counter() + SECONDS
    for round in range(ROUNDS + 1):
        for name, times in spent.items():
            begun = time.perf_counter()
            ATTENTIONS[name](q, k, v, None, model.window, 0.0).sum().backward()
            times.append(time.perf_counter() - begun)
        if round and time.perf_counter() > end:
            break
    return {name: statistics.median(times[1:]) for name, times in spent.items()}  # without the warmup
