"""Patches of the model for ablations.py: what fledge does not have, on the real model.

A patch is installed on the model, the optimizer and the batches of a run, after they are built. It changes them through
torch's hooks and the fields of TrainStep; parameters of its own join the model and the optimizer. With a strength of 0
it trains as without it, number by number.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fledge.batches.loader import Batch, WindowReader
from fledge.core.device import Machine
from fledge.datasets.shards import Split
from fledge.model.bigram import MASK, MULTIPLIER
from fledge.training.config import Settings
from fledge.training.setup import window_sampler
from fledge.training.step import TrainStep

SCALAR_LR = 0.01  # of single numbers, which must move far in a few hundred steps


class NotApplicable(Exception):
    """A part that changes nothing here, or cannot be used with this text."""


@dataclass
class Training:
    """What a patch may change."""

    step: TrainStep
    settings: Settings
    split: Split
    machine: Machine

    @property
    def progress(self) -> float:
        """Of the update in progress, from 0 to 1."""
        return self.step.current_step / self.settings.train.steps

    @property
    def embed_lr(self) -> float:
        return self.settings.optim.embed_lr or self.settings.optim.lr

    def parameter(self, value: Tensor, lr: float) -> nn.Parameter:
        """A new parameter of the model, updated by AdamW."""
        parameter = nn.Parameter(value)
        self.step.model.register_parameter(f"part_{len(self.step.optimizer.param_groups)}", parameter)
        self.step.optimizer.add_param_group({"params": [parameter], "lr": lr, "initial_lr": lr, "weight_decay": 0.0})
        return parameter

    def read(self, first: int, count: int) -> Batch:
        """The recipe's windows number first … first + count - 1."""
        return WindowReader(self.split, window_sampler(self.settings, len(self.split)))(first, count)


class Patch:
    def __init__(self, strength: float = 1.0) -> None:
        self.strength = strength

    def install(self, training: Training) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        """After the last update, before the evaluation."""


class ValueEmbeddings(Patch):
    """Another embedding of the tokens, added to each layer's values (after Zhou et al., 2024; modded-nanogpt)."""

    def install(self, training: Training) -> None:
        model, config = training.step.model, training.settings.model
        seen: dict[str, Tensor] = {}
        model.embed.register_forward_pre_hook(lambda _, args: seen.update(ids=args[0]))
        random = torch.Generator().manual_seed(training.settings.train.seed)
        for block in model.blocks:
            table = torch.randn(config.vocab_size, config.kv_heads * config.head_width, generator=random)
            table = training.parameter(0.02 * table, training.embed_lr)
            scale = training.parameter(torch.ones(1), SCALAR_LR)

            def add(_: Any, __: Any, values: Tensor, table: Tensor = table, scale: Tensor = scale) -> Tensor:
                return values + (self.strength * scale * F.embedding(seen["ids"], table)).to(values)

            block.attention.value.register_forward_hook(add)


class Smear(Patch):
    """A gate adds some of the previous token's embedding (token shift: Peng et al., 2023; modded-nanogpt)."""

    def install(self, training: Training) -> None:
        width = min(16, training.settings.model.n_embd)  # numbers of the embedding that decide
        gate, scale = (training.parameter(torch.zeros(count), SCALAR_LR) for count in (width, 1))

        def smear(_: Any, __: Any, x: Tensor) -> Tensor:
            opened = torch.sigmoid(F.rms_norm(x, x.shape[-1:])[..., :width] @ gate).unsqueeze(-1)  # [B, T, 1]
            return x + self.strength * scale * opened * F.pad(x[:, :-1], (0, 0, 1, 0))

        training.step.model.dropout.register_forward_hook(smear)


class ResidualScalars(Patch):
    """The input of a block: residual stream and first embedding, each times a learned number (modded-nanogpt)."""

    def install(self, training: Training) -> None:
        model, seen = training.step.model, dict[str, Tensor]()
        model.dropout.register_forward_hook(lambda _, __, x: seen.update(first=x))
        for block in model.blocks:
            scales = training.parameter(torch.zeros(2), SCALAR_LR)

            def mix(_: Any, args: tuple[Any, ...], scales: Tensor = scales) -> tuple[Any, ...]:
                return args[0] + self.strength * (scales[0] * args[0] + scales[1] * seen["first"]), *args[1:]

            block.register_forward_pre_hook(mix)


class Trigrams(Patch):
    """A hashed embedding of token triples, beside that of pairs (hash embeddings: Svenstrup et al., 2017)."""

    rows = 65_536

    def install(self, training: Training) -> None:
        seen: dict[str, Tensor] = {}
        table = training.parameter(torch.zeros(self.rows, training.settings.model.n_embd), training.embed_lr)
        training.step.model.embed.register_forward_pre_hook(lambda _, args: seen.update(ids=args[0]))

        def add(_: Any, __: Any, x: Tensor) -> Tensor:
            return x + self.strength * F.embedding(self.row(seen["ids"]), table)

        training.step.model.dropout.register_forward_hook(add)

    def row(self, ids: Tensor) -> Tensor:
        """[B, T] → which row stands for each token and the two before it"""
        before, last = F.pad(ids[:, :-2], (2, 0)), F.pad(ids[:, :-1], (1, 0))
        return hashed(hashed(hashed(before[:, : ids.shape[1]]) ^ last) ^ ids) * self.rows >> 32


def hashed(number: Tensor) -> Tensor:
    """32 bits → 32 other bits"""
    once = number * MULTIPLIER & MASK
    return (once ^ once >> 16) * MULTIPLIER & MASK
