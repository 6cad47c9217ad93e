"""[optim]: how weights move."""

import math
from dataclasses import dataclass
from typing import Literal

from fledge.core.config import setting
from fledge.core.errors import UserError


@dataclass(frozen=True)
class OptimConfig:
    rule: Literal["adamw", "muon"] = setting("adamw", "how the matrices of blocks move; all else follows AdamW")
    lr: float = setting(1e-3, "learning rate at its peak")
    min_lr: float = setting(1e-4, "learning rate at the end")
    warmup_steps: int = setting(100, "steps to climb from nothing to the peak")
    schedule: Literal["cosine", "trapezoid", "constant"] = setting("cosine", "the way from the peak to the end")
    cooldown: float = setting(0.4, "trapezoid: share of the steps that go down at the end")
    weight_decay: float = setting(0.1, "pull of matrices towards zero")
    betas: tuple[float, float] = setting((0.9, 0.95), "memory of the mean and of the square of gradients")
    eps: float = setting(1e-8, "smallest divisor")
    muon_lr: float = setting(0.02, "muon: learning rate of the matrices of blocks at its peak")
    momentum: float = setting(0.95, "muon: memory of the gradient")
    embed_lr: float | None = setting(None, "beside muon: peak learning rate of the embedding; unset: lr")
    head_lr: float | None = setting(None, "beside muon: peak learning rate of the head; unset: lr")

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise UserError(f"optim.lr cannot be {self.lr}", "it takes a number above 0; 1e-3 is a good start")
        if not 0 <= self.min_lr <= self.lr:
            raise UserError(
                f"optim.min_lr = {self.min_lr:g} must lie between 0 and optim.lr = {self.lr:g}",
                f"a tenth of the peak is usual: --optim.min_lr {self.lr / 10:g}",
            )
        if self.warmup_steps < 0:
            raise UserError(f"optim.warmup_steps cannot be {self.warmup_steps}", "it takes a whole number from 0 up")
        if not 0 <= self.cooldown <= 1:
            raise UserError(f"optim.cooldown cannot be {self.cooldown}", "it is a share of the steps, from 0 to 1")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"optim.weight_decay cannot be {self.weight_decay}", "it takes a number from 0 up")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optim.betas cannot be {list(self.betas)}", "both lie from 0 up to, not including, 1")
        for name in ("muon_lr", "embed_lr", "head_lr"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"optim.{name} cannot be {value}", "it takes a number above 0")
        if not 0 <= self.momentum < 1:
            raise UserError(f"optim.momentum cannot be {self.momentum}", "it lies from 0 up to, not including, 1")
        if not 0 < self.eps < math.inf:
            raise UserError(f"optim.eps cannot be {self.eps}", "it takes a number above 0; 1e-8 is usual")
