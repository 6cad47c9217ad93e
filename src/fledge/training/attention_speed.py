"""Which attention is fastest on this machine: measured, remembered, and written into the settings of the run."""

import statistics
import time
from typing import Literal

import torch

from fledge.core.device import Machine, cached_measurement
from fledge.model.attention import ATTENTIONS
from fledge.model.config import ModelConfig

TOKENS = 4096  # measured at once
ROUNDS, SECONDS = 5, 1.0  # whichever comes first
CLEARLY = 1.1  # times as fast as the fused kernel: less is not worth the memory for the attention weights


def fastest_attention(model: ModelConfig, sequences: int, machine: Machine) -> Literal["sdpa", "blocked"]:
    """On a GPU the fused kernel; on a CPU it may lose to plain matrix products in bf16, at short contexts by far."""
    if machine.device != "cpu" or machine.dtype == "float32":
        return "sdpa"
    rows = max(1, min(sequences, TOKENS // model.context))
    shape = {"B": rows, "H": model.n_head, "K": model.kv_heads, "T": model.context, "D": model.head_width}
    what = f"attention {shape}, window {model.window}, {machine.dtype}"

    def blocked_wins() -> str:
        seconds = cached_measurement(what, lambda: measure(model, rows, machine.torch_dtype))
        return "blocked" if seconds["sdpa"] > CLEARLY * seconds["blocked"] else ""

    return "blocked" if machine.world.broadcast_from_main(blocked_wins) else "sdpa"  # one rank measures for all


def measure(model: ModelConfig, rows: int, dtype: torch.dtype) -> dict[str, float]:
    """Seconds of a forward and a backward pass, in turns; the median counts."""

    def heads(count: int) -> torch.Tensor:
        x = torch.randn(rows, model.context, count, model.head_width, dtype=dtype)
        return x.transpose(1, 2).requires_grad_()  # as the projections leave them

    q, k, v = heads(model.n_head), heads(model.kv_heads), heads(model.kv_heads)
    spent: dict[str, list[float]] = {"sdpa": [], "blocked": []}
    end = time.perf_counter() + SECONDS
    for turn in range(ROUNDS + 1):
        for name, times in spent.items():
            begun = time.perf_counter()
            ATTENTIONS[name](q, k, v, None, model.window, 0.0).sum().backward()
            times.append(time.perf_counter() - begun)
        if turn and time.perf_counter() > end:
            break
    return {name: statistics.median(times[1:]) for name, times in spent.items()}  # the first warms up
