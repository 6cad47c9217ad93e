"""One training step: tokens per second, and its FLOP/s relative to this machine's fastest matrix product.

    python bench/step.py --nanogpt CHECKOUT [--shapes 10.7M 124M] [--dtypes float32 bfloat16] [--rounds 7] [--litgpt]

All implementations (peers.py) run alternately in one process with the same GPT-2-like shape, batch and precision. All
learn the same batch, and a step counts only if all losses fall and end alike. The limit is measured here: the fastest
of many products of large square matrices. The FLOPs of a step are its matrix products, forward and backward, including
attention.
"""

import argparse
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import torch

import peers
from common import machine, versions
from fledge.core.device import DTYPES, Machine, has_bf16_units
from fledge.model.config import ModelConfig
from fledge.model.flops import training_flops

SHAPES = {
    "10.7M": (replace(peers.GPT2, n_layer=6, n_head=6, n_embd=384, context=256, vocab_size=65), 16),
    "124M": (replace(peers.GPT2, n_layer=12, n_head=12, n_embd=768, context=512, vocab_size=50_257), 4),
}
WARM_UP = 3  # steps of each implementation that are not counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True, metavar="CHECKOUT")
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--dtypes", nargs="*", choices=list(DTYPES), default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--litgpt", action="store_true")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(machine(), torch.cuda.get_device_name() if device == "cuda" else "", "|", versions("torch", "transformers"))
    for dtype in args.dtypes:
        if dtype == "bfloat16" and not has_bf16_units(device):
            print(f"bfloat16: this {device} has no bf16 units; not measured")
            continue
        here = Machine(device, dtype)
        limit = matmul_limit(here)
        print(f"{dtype}: matrix products reach {limit / 1e9:,.0f} GFLOP/s")
        for name in args.shapes:
            compare_steps(name, *SHAPES[name], here, limit, args)


def matmul_limit(here: Machine, size: int = 2048, seconds: float = 3.0) -> float:
    """FLOP/s of the fastest product."""
    a = torch.randn(size, size, dtype=here.torch_dtype, device=here.device)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = time.perf_counter()
        a @ a
        synchronize(here)
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best


def compare_steps(
    name: str, config: ModelConfig, batch: int, here: Machine, limit: float, args: argparse.Namespace
) -> None:
    inputs, targets = peers.batch_of(config, batch, here.device)
    makers = {
        "ours": peers.ours,
        "nanoGPT": partial(peers.nanogpt, checkout=args.nanogpt),
        "transformers": peers.transformers,
    }
    if args.litgpt:
        makers["litgpt"] = peers.litgpt
    steps = {peer: make(config, batch, here) for peer, make in makers.items()}
    seconds: dict[str, list[float]] = {peer: [] for peer in steps}
    losses: dict[str, list[float]] = {peer: [] for peer in steps}
    for turn in range(args.rounds + WARM_UP):
        for peer, step in steps.items():
            synchronize(here)
            begun = time.perf_counter()
            losses[peer].append(step(inputs, targets))
            synchronize(here)
            seconds[peer] += [time.perf_counter() - begun] * (turn >= WARM_UP)
    peers.check_losses(losses)
    tokens, flops = batch * config.context, training_flops(config) * batch * config.context
    ours = median(seconds["ours"])
    for peer, spent in seconds.items():
        speed = f"{tokens / median(spent):10,.0f} tokens/s   {flops / median(spent) / limit:4.0%} of the limit"
        change = f"loss {losses[peer][0]:.3f} → {losses[peer][-1]:.3f}"
        print(f"  {name:<6} {peer:<13} {speed}   {median(spent) / ours:5.2f}x our time   {change}", flush=True)


def synchronize(here: Machine) -> None:
    if here.device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
