"""Training steps of ours and of peers on the same GPT-2 shape: each compiled, with its own AdamW. A step gives a loss.

ours             what `fledge train` builds: attention and loss as it would choose them
nanogpt          karpathy/nanoGPT's model in a loop like its train.py, from a checkout
transformers     GPT2LMHeadModel in the same loop
litgpt           where it is installed
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fledge.batches.loader import Batch
from fledge.core.device import Machine
from fledge.model.config import ModelConfig
from fledge.model.init import build
from fledge.optim.config import OptimConfig
from fledge.optim.groups import build_optimizer
from fledge.optim.schedule import lr_multiplier
from fledge.training.attention_speed import fastest_attention
from fledge.training.compiled import CompileCheck
from fledge.training.micro_batch import chunked_loss_pays
from fledge.training.parallel import deterministic_sums, wrap
from fledge.training.step import TrainStep

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
Step = Callable[[Tensor, Tensor], float]  # inputs and targets [B, T] → loss
RATE = 1e-3


def ours(config: ModelConfig, batch: int, machine: Machine) -> Step:
    deterministic_sums()
    config = replace(config, attention=fastest_attention(config, batch, machine))
    optim = OptimConfig(lr=RATE, warmup_steps=0, schedule="constant")
    model = build(config, 0).to(machine.device)
    given = Given()
    chunked = chunked_loss_pays(config, batch, machine, compiled=True)
    stepper = TrainStep(
        model=model,
        loss=wrap(model, machine, compile=True, chunked=chunked, report=refuse_eager),
        optimizer=build_optimizer(model, optim, machine.torch_dtype),
        batches=given,
        multiplier=partial(lr_multiplier, optim, steps=1000),
        peak=optim.lr,
        clip=1.0,
    )

    def step(inputs: Tensor, targets: Tensor) -> float:
        given.batch = Batch(inputs, targets)
        return stepper(10).loss

    return step


def refuse_eager(check: CompileCheck) -> None:
    if not check.ok:
        raise SystemExit(check.reason)


class Given:
    """The same batch at every step."""

    batch: Batch

    def __call__(self, _: int) -> list[Batch]:
        return [self.batch]

    def shrink(self) -> None:
        raise SystemExit("not enough memory for this shape: name smaller ones, --shapes")

    def state_dict(self) -> int:
        return len(self.batch.inputs)

    def load_state_dict(self, size: int | None) -> None: ...


def nanogpt(config: ModelConfig, _: int, machine: Machine, checkout: Path) -> Step:
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    import model as theirs

    shape = {"n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.n_embd}
    made = theirs.GPT(theirs.GPTConfig(block_size=config.context, vocab_size=config.vocab_size, bias=True, **shape))
    made = made.to(machine.device)
    optimizer = made.configure_optimizers(0.1, RATE, (0.9, 0.95), machine.device)
    return loop(torch.compile(made), made, optimizer, machine, lambda model, x, y: model(x, y)[1])


def transformers(config: ModelConfig, _: int, machine: Machine) -> Step:
    import transformers

    shape = {"n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.n_embd, "n_positions": config.context}
    quiet = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    tokens = {"bos_token_id": None, "eos_token_id": None}
    described = transformers.GPT2Config(vocab_size=config.vocab_size, **shape, **quiet, **tokens)
    made = transformers.GPT2LMHeadModel(described).to(machine.device)
    optimizer = torch.optim.AdamW(made.parameters(), lr=RATE, fused=True)

    def loss(model: Callable[..., object], x: Tensor, y: Tensor) -> Tensor:
        logits = model(input_ids=x, use_cache=False).logits  # type: ignore[attr-defined]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), y.flatten())

    return loop(torch.compile(made), made, optimizer, machine, loss)


def litgpt(config: ModelConfig, _: int, machine: Machine) -> Step:
    import litgpt as theirs

    shape = {"n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.n_embd}
    vocabulary = {"padded_vocab_size": config.vocab_size, "vocab_size": config.vocab_size}
    made = theirs.GPT(theirs.Config(block_size=config.context, **vocabulary, **shape)).to(machine.device)
    optimizer = torch.optim.AdamW(made.parameters(), lr=RATE, fused=True)

    def loss(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(model(x).flatten(0, 1).float(), y.flatten())

    return loop(torch.compile(made), made, optimizer, machine, loss)


def loop(
    model: Callable[..., object],
    plain: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    machine: Machine,
    loss: Callable[[Callable[..., object], Tensor, Tensor], Tensor],
) -> Step:
    """As nanoGPT's train.py has it: forward under autocast, backward, clip, update."""

    def step(inputs: Tensor, targets: Tensor) -> float:
        with torch.autocast(machine.device, dtype=machine.torch_dtype, enabled=machine.dtype != "float32"):
            value = loss(model, inputs, targets)
        value.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(value.detach())

    return step


def batch_of(config: ModelConfig, batch: int, device: str) -> tuple[Tensor, Tensor]:
    """Random tokens, some far more frequent than others, as in a text: that much can be learned in a few steps."""
    generator, ranks = torch.Generator().manual_seed(0), torch.arange(1, (config.vocab_size or 0) + 1)
    ids = torch.multinomial(1 / ranks, batch * (config.context + 1), replacement=True, generator=generator)
    ids = ids.view(batch, config.context + 1).to(device)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def refuse_untrue(losses: dict[str, list[float]]) -> None:
    """A speed of wrong numbers is no speed: everyone learns the same batch, so all losses fall, and end alike."""
    reference = next(iter(losses.values()))
    for name, found in losses.items():
        if not found[-1] < found[0] - 0.3:
            raise SystemExit(f"{name} does not learn: its loss went from {found[0]:.3f} to {found[-1]:.3f}")
        if abs(found[0] / reference[0] - 1) > 0.05 or abs(found[-1] - reference[-1]) > 0.1 * reference[0]:
            raise SystemExit(f"{name} computes something else: {found[0]:.3f} → {found[-1]:.3f}, not as {reference}")
