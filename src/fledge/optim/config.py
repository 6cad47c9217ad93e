"""[optim]: the optimizer, its learning rates and their schedule."""

import math
from dataclasses import dataclass
from typing import Literal

from fledge.core.config import setting
from fledge.core.errors import UserError


@dataclass(frozen=True)
class OptimConfig:
    optimizer: Literal["adamw", "muon"] = setting(
        "adamw", "optimizer of the 2-D block weights; all other parameters use AdamW"
    )
    lr: float = setting(1e-3, "peak learning rate")
    min_lr: float = setting(1e-4, "final learning rate")
    warmup_steps: int = setting(100, "steps of linear warmup, from 0 to the peak")
    schedule: Literal["cosine", "trapezoid", "constant"] = setting("cosine", "learning-rate schedule after the warmup")
    cooldown: float = setting(0.4, "trapezoid: fraction of the steps in the final decay")
    weight_decay: float = setting(0.1, "weight decay of matrices")
    betas: tuple[float, float] = setting((0.9, 0.95), "AdamW: decay rates of the two moments")
    eps: float = setting(1e-8, "AdamW: epsilon")
    muon_lr: float = setting(0.02, "muon: peak learning rate of the 2-D block weights")
    momentum: float = setting(0.95, "muon: momentum")
    embed_lr: float | None = setting(None, "with muon: peak learning rate of the embedding; unset: lr")
    head_lr: float | None = setting(None, "with muon: peak learning rate of the head; unset: lr")

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise UserError(f"optim.lr cannot be {self.lr}", "use a number above 0; 1e-3 is a good start")
        if not 0 <= self.min_lr <= self.lr:
            raise UserError(
                f"optim.min_lr = {self.min_lr:g} must lie between 0 and optim.lr = {self.lr:g}",
                f"a tenth of the peak is usual: --optim.min_lr {self.lr / 10:g}",
            )
        if self.warmup_steps < 0:
            raise UserError(f"optim.warmup_steps cannot be {self.warmup_steps}", "use a whole number from 0 up")
        if not 0 <= self.cooldown <= 1:
            raise UserError(f"optim.cooldown cannot be {self.cooldown}", "it is a fraction of the steps, from 0 to 1")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"optim.weight_decay cannot be {self.weight_decay}", "use a number from 0 up")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optim.betas cannot be {list(self.betas)}", "both must be from 0 to below 1")
        for name in ("muon_lr", "embed_lr", "head_lr"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"optim.{name} cannot be {value}", "use a number above 0")
        if not 0 <= self.momentum < 1:
            raise UserError(f"optim.momentum cannot be {self.momentum}", "use a number from 0 to below 1")
        if not 0 < self.eps < math.inf:
            raise UserError(f"optim.eps cannot be {self.eps}", "use a number above 0; 1e-8 is usual")
