"""One optimizer step: fledge's Muon, which stacks the matrices of one shape, against torch.optim.Muon, which does not.

    python bench/optim.py [--rounds 7]

On the matrices of a GPT's blocks, with random gradients, in this machine's default precision. Fused AdamW on the same
matrices is the reference: Muon costs more per step, and pays only if it needs fewer steps.
"""

import argparse
from collections.abc import Callable

import torch
from torch import nn

from common import compare, machine, versions
from fledge.core.device import choose_machine
from fledge.model.config import ModelConfig
from fledge.model.init import build
from fledge.optim.config import OptimConfig
from fledge.optim.groups import build_optimizer

SHAPES = {
    "0.8M, 2 blocks of 128": ModelConfig(n_layer=2, n_head=2, n_embd=128, context=64, vocab_size=65),
    "5M, 6 blocks of 256": ModelConfig(n_layer=6, n_head=4, n_embd=256, context=64, vocab_size=65),
    "30M, 8 blocks of 512": ModelConfig(n_layer=8, n_head=8, n_embd=512, context=64, vocab_size=65),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    here = choose_machine()
    print(machine(), here.device, here.dtype, "|", versions("torch"))
    for name, config in SHAPES.items():
        model = build(config, 0).to(here.device)
        matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
        gradients = [torch.randn_like(p) for p in matrices]
        ours = build_optimizer(model, OptimConfig(optimizer="muon"), here.torch_dtype)
        theirs = torch.optim.Muon(matrices, lr=1e-3)
        adamw = torch.optim.AdamW(matrices, lr=1e-3, fused=True)
        steps = [update(each, matrices, gradients) for each in (ours, theirs, adamw)]
        for step in steps:
            step()
        compare(f"{name}: ours, vs torch.optim.Muon", steps[0], steps[1], args.rounds)
        compare(f"{name}: ours, vs AdamW", steps[0], steps[2], args.rounds)


def update(
    optimizer: torch.optim.Optimizer, matrices: list[nn.Parameter], gradients: list[torch.Tensor]
) -> Callable[[], None]:
    def step() -> None:
        for p, gradient in zip(matrices, gradients, strict=True):
            p.grad = gradient
        optimizer.step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return step


if __name__ == "__main__":
    main()
