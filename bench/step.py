"""One training step: tokens a second, and how much of this machine's own matrix products that is.

    python bench/step.py --nanogpt CHECKOUT [--shapes 10.7M 124M] [--dtypes float32 bfloat16] [--rounds 7] [--litgpt]

The same GPT-2-like shape, batch and precision for everyone, each compiled and with its own AdamW, in turns in one
process: ours as `fledge train` builds it, nanoGPT's model in a loop like its own, transformers' GPT-2, and litgpt's
where it is installed. The limit is measured here, as the fastest of many products of large square matrices; what counts
of a step is what it must multiply, forth and back, attention included.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from common import machine, versions
from fledge.base.machine import DTYPES, Machine, has_bf16_units
from fledge.batches.loader import Batch
from fledge.model.config import ModelConfig
from fledge.model.count import training_flops
from fledge.model.init import build
from fledge.optim.config import OptimConfig
from fledge.optim.groups import build_optimizer
from fledge.optim.schedule import multiplier
from fledge.train.parallel import exact, wrap
from fledge.train.step import Stepper

GPT2 = ModelConfig(
    positions="learned",
    norm="layernorm",
    norm_bias=True,
    mlp="gelu",
    qk_norm=False,
    qkv_bias=True,
    output_bias=True,
    mlp_bias=True,
    tied=True,
)
SHAPES = {
    "10.7M": (replace(GPT2, n_layer=6, n_head=6, n_embd=384, context=256, vocab_size=65), 16),
    "124M": (replace(GPT2, n_layer=12, n_head=12, n_embd=768, context=512, vocab_size=50_304), 4),
}
Step = Callable[[Tensor, Tensor], object]


@dataclass
class Result:
    name: str
    seconds: list[float]


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
    sys.path.insert(0, str(args.nanogpt))
    for dtype in args.dtypes:
        if dtype == "bfloat16" and not has_bf16_units(device):
            print(f"bfloat16: this {device} has no units for it; not measured")
            continue
        here = Machine(device, dtype)
        limit = peak(here)
        print(f"{dtype}: matrix products reach {limit / 1e9:,.0f} GFLOP/s")
        for name in args.shapes:
            race(name, *SHAPES[name], here, limit, args)


def peak(here: Machine, size: int = 2048, seconds: float = 3.0) -> float:
    a = torch.randn(size, size, dtype=here.torch_dtype, device=here.device)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = time.perf_counter()
        a @ a
        wait(here)
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best


def race(name: str, config: ModelConfig, batch: int, here: Machine, limit: float, args: argparse.Namespace) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size or 0, (batch, config.context + 1), generator=generator).to(here.device)
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    makers = {"ours": ours, "nanoGPT": nanogpt, "transformers": hugging_face}
    if args.litgpt:
        makers["litgpt"] = litgpt
    steps = {who: make(config, here) for who, make in makers.items()}
    results = {who: Result(who, []) for who in steps}
    for turn in range(args.rounds + 3):  # the first compile, and warm up
        for who, step in steps.items():
            wait(here)
            begun = time.perf_counter()
            step(inputs, targets)
            wait(here)
            if turn >= 3:
                results[who].seconds.append(time.perf_counter() - begun)
    tokens, flops = batch * config.context, training_flops(config) * batch * config.context
    mine = median(results["ours"].seconds)
    for who, result in results.items():
        spent = median(result.seconds)
        share = flops / spent / limit
        speed = f"{tokens / spent:10,.0f} tokens/s   {share:4.0%} of the limit   {spent / mine:5.2f}x our time"
        print(f"  {name:<6} {who:<13} {speed}", flush=True)


def wait(here: Machine) -> None:
    if here.device == "cuda":
        torch.cuda.synchronize()


def ours(config: ModelConfig, here: Machine) -> Step:
    exact()
    optim = OptimConfig()
    model = build(config, 0).to(here.device)
    given = Given()
    stepper = Stepper(
        model=model,
        loss=wrap(model, here, compile=True),
        optimizer=build_optimizer(model, optim, here.torch_dtype),
        batches=given,
        multiplier=partial(multiplier, optim, steps=1000),
        peak=optim.lr,
        clip=1.0,
    )

    def step(inputs: Tensor, targets: Tensor) -> None:
        given.batch = Batch(inputs, targets)
        stepper(10)

    return step


class Given:
    """The same batch at every step."""

    batch: Batch

    def __call__(self, _: int) -> list[Batch]:
        return [self.batch]

    def shrink(self) -> None:
        raise SystemExit("not enough memory for this shape: name smaller ones, --shapes")

    def memory(self) -> int:
        return len(self.batch.inputs)

    def remember(self, size: int | None) -> None: ...


def nanogpt(config: ModelConfig, here: Machine) -> Step:
    import model as theirs

    shape = {"n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.n_embd}
    made = theirs.GPT(theirs.GPTConfig(block_size=config.context, vocab_size=config.vocab_size, bias=True, **shape))
    made = made.to(here.device)
    optimizer = made.configure_optimizers(0.1, 1e-3, (0.9, 0.95), here.device)
    return loop(torch.compile(made), made, optimizer, here, lambda model, x, y: model(x, y)[1])


def hugging_face(config: ModelConfig, here: Machine) -> Step:
    import transformers

    shape = {"n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.n_embd, "n_positions": config.context}
    quiet = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    made = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=config.vocab_size, **shape, **quiet))
    made = made.to(here.device)
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-3, fused=True)

    def loss(model: Callable[..., object], x: Tensor, y: Tensor) -> Tensor:
        logits = model(input_ids=x, use_cache=False).logits  # type: ignore[attr-defined]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), y.flatten())

    return loop(torch.compile(made), made, optimizer, here, loss)


def litgpt(config: ModelConfig, here: Machine) -> Step:
    import litgpt as theirs

    shape = {"n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.n_embd}
    made = theirs.GPT(
        theirs.Config(
            block_size=config.context, padded_vocab_size=config.vocab_size, vocab_size=config.vocab_size, **shape
        )
    ).to(here.device)
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-3, fused=True)

    def loss(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(model(x).flatten(0, 1).float(), y.flatten())

    return loop(torch.compile(made), made, optimizer, here, loss)


def loop(
    model: Callable[..., object],
    plain: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    here: Machine,
    loss: Callable[[Callable[..., object], Tensor, Tensor], Tensor],
) -> Step:
    """As nanoGPT's train.py has it: forward under autocast, backward, clip, update."""

    def step(inputs: Tensor, targets: Tensor) -> None:
        with torch.autocast(here.device, dtype=here.torch_dtype, enabled=here.dtype != "float32"):
            value = loss(model, inputs, targets)
        value.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        float(value)

    return step


if __name__ == "__main__":
    main()
