"""Training steps of fledge and of its peers on one GPT-2 shape, each compiled and with AdamW. A step returns its loss.

ours             what `fledge train` builds, with the attention and the loss that it chooses
nanogpt          the model of karpathy/nanoGPT, from a checkout, in a loop like its train.py
transformers     GPT2LMHeadModel in the same loop
litgpt           if it is installed
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
from fledge.training.micro_batch import should_chunk_loss
from fledge.training.objective import next_token_objective
from fledge.training.parallel import use_deterministic_algorithms, wrap
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
LEARNING_RATE = 1e-3


def ours(config: ModelConfig, batch: int, machine: Machine) -> Step:
    use_deterministic_algorithms()
    config = replace(config, attention=fastest_attention(config, batch, machine))
    optim = OptimConfig(lr=LEARNING_RATE, warmup_steps=0, schedule="constant")
    model = build(config, 0).to(machine.device)
    fixed = FixedBatch()
    chunked = should_chunk_loss(config, batch, machine, compiled=True)
    objective = next_token_objective(machine, chunked=chunked, compile=True)
    stepper = TrainStep(
        model=model,
        loss=wrap(model, machine, objective, compile=True, report=refuse_eager),
        optimizer=build_optimizer(model, optim, machine.torch_dtype),
        batches=fixed,
        multiplier=partial(lr_multiplier, optim, steps=1000),
        initial_lr=optim.lr,
        grad_clip=1.0,
    )

    def step(inputs: Tensor, targets: Tensor) -> float:
        fixed.batch = Batch(inputs, targets)
        return stepper(10).loss

    return step


def refuse_eager(check: CompileCheck) -> None:
    if not check.ok:
        raise SystemExit(check.reason)


class FixedBatch:
    """Gives the same batch at every step."""

    batch: Batch

    def __call__(self, _: int) -> list[Batch]:
        return [self.batch]

    def shrink(self) -> None:
        raise SystemExit("not enough memory for this shape: choose smaller ones with --shapes")

    def state_dict(self) -> int:
        return len(self.batch.inputs)

    def load_state_dict(self, size: int | None) -> None: ...


def nanogpt(config: ModelConfig, _: int, machine: Machine, checkout: Path) -> Step:
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    import model as theirs

    shape = {"n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.n_embd}
    plain = theirs.GPT(theirs.GPTConfig(block_size=config.context, vocab_size=config.vocab_size, bias=True, **shape))
    plain = plain.to(machine.device)
    optimizer = plain.configure_optimizers(0.1, LEARNING_RATE, (0.9, 0.95), machine.device)
    return loop(torch.compile(plain), plain, optimizer, machine, lambda model, x, y: model(x, y)[1])


def transformers(config: ModelConfig, _: int, machine: Machine) -> Step:
    import transformers

    shape = {"n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.n_embd, "n_positions": config.context}
    no_dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    tokens = {"bos_token_id": None, "eos_token_id": None}
    peer_config = transformers.GPT2Config(vocab_size=config.vocab_size, **shape, **no_dropout, **tokens)
    plain = transformers.GPT2LMHeadModel(peer_config).to(machine.device)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=LEARNING_RATE, fused=True)

    def loss(model: Callable[..., object], x: Tensor, y: Tensor) -> Tensor:
        logits = model(input_ids=x, use_cache=False).logits  # type: ignore[attr-defined]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), y.flatten())

    return loop(torch.compile(plain), plain, optimizer, machine, loss)


def litgpt(config: ModelConfig, _: int, machine: Machine) -> Step:
    import litgpt as theirs

    shape = {"n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.n_embd}
    vocabulary = {"padded_vocab_size": config.vocab_size, "vocab_size": config.vocab_size}
    plain = theirs.GPT(theirs.Config(block_size=config.context, **vocabulary, **shape)).to(machine.device)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=LEARNING_RATE, fused=True)

    def loss(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(model(x).flatten(0, 1).float(), y.flatten())

    return loop(torch.compile(plain), plain, optimizer, machine, loss)


def loop(
    model: Callable[..., object],
    plain: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    machine: Machine,
    loss: Callable[[Callable[..., object], Tensor, Tensor], Tensor],
) -> Step:
    """The step of nanoGPT's train.py: forward under autocast, backward, clip, update."""

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
    """Random tokens with the frequencies of a text (Zipf's law), so that a few steps can already lower the loss."""
    generator, ranks = torch.Generator().manual_seed(0), torch.arange(1, (config.vocab_size or 0) + 1)
    ids = torch.multinomial(1 / ranks, batch * (config.context + 1), replacement=True, generator=generator)
    ids = ids.view(batch, config.context + 1).to(device)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def check_losses(losses: dict[str, list[float]]) -> None:
    """Exit unless all losses fall and end alike: all learn the same batch, and a wrong step has no speed."""
    reference = next(iter(losses.values()))
    for name, values in losses.items():
        if not values[-1] < values[0] - 0.3:
            raise SystemExit(f"{name} does not learn: its loss went from {values[0]:.3f} to {values[-1]:.3f}")
        if abs(values[0] / reference[0] - 1) > 0.05 or abs(values[-1] - reference[-1]) > 0.1 * reference[0]:
            raise SystemExit(f"{name} computes something else: {values[0]:.3f} → {values[-1]:.3f}, not as {reference}")
