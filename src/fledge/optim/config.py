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
    allow_rising: bool = setting(False, "allow a min_lr above lr: the learning rate then rises")
    warmup_steps: int = setting(100, "steps of linear warmup, from 0 to the peak")
    warmup: Literal["inner", "from_zero", "to_peak"] = setting(
        "inner", "share of the peak at step s (from 0) of w; inner: (s+1)/(w+1), from_zero: s/w, to_peak: (s+1)/w"
    )
    schedule: Literal["cosine", "epoch_cosine", "cut_cosine", "cyclic_cosine", "trapezoid", "constant"] = setting(
        "cosine",
        "learning-rate schedule after the warmup; epoch_cosine: changes once per epoch;"
        " cut_cosine: takes decay_steps from the warmup on, but is cut at step decay_steps;"
        " cyclic_cosine: rises and falls again after decay_steps",
    )
    decay_steps: int | None = setting(
        None, "step, counted from the start, at which a cosine reaches min_lr; unset: the end of the run"
    )
    steps_per_epoch: float | None = setting(None, "epoch_cosine: steps in an epoch, computed from the text")
    lag: bool = setting(False, "learning rate is set after each update: update 0 at the peak, update n at that of n-1")
    cooldown: float = setting(0.4, "trapezoid: fraction of the steps in the final decay")
    weight_decay: float = setting(0.1, "weight decay")
    decay: Literal["matrices", "all"] = setting(
        "matrices", "what weight decay applies to; all: every trained parameter, norms and biases too"
    )
    betas: tuple[float, float] = setting((0.9, 0.95), "AdamW: decay rates of the two moments")
    eps: float = setting(1e-8, "AdamW: epsilon")
    muon_lr: float = setting(0.02, "muon: peak learning rate of the 2-D block weights")
    momentum: float = setting(0.95, "muon: momentum")
    embed_lr: float | None = setting(None, "with muon: peak learning rate of the embedding; unset: lr")
    head_lr: float | None = setting(None, "with muon: peak learning rate of the head; unset: lr")

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise UserError(f"optim.lr cannot be {self.lr}", "use a number above 0; 1e-3 is a good start")
        self._check_schedule()
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

    def _check_schedule(self) -> None:
        if not 0 <= self.min_lr < math.inf or (self.min_lr > self.lr and not self.allow_rising):
            rising = "; or let the rate rise: --optim.allow_rising true" if self.lr < self.min_lr < math.inf else ""
            raise UserError(
                f"optim.min_lr = {self.min_lr:g} must lie between 0 and optim.lr = {self.lr:g}",
                f"a tenth of the peak is usual: --optim.min_lr {self.lr / 10:g}{rising}",
            )
        if self.warmup_steps < 0:
            raise UserError(f"optim.warmup_steps cannot be {self.warmup_steps}", "use a whole number from 0 up")
        if not 0 <= self.cooldown <= 1:
            raise UserError(f"optim.cooldown cannot be {self.cooldown}", "it is a fraction of the steps, from 0 to 1")
        if self.decay_steps is not None and self.decay_steps <= self.warmup_steps:
            raise UserError(
                f"optim.decay_steps = {self.decay_steps} must be above optim.warmup_steps = {self.warmup_steps}",
                "it counts from the start, warmup included; to decay until the end: --optim.decay_steps null",
            )
        if self.decay_steps is not None and not self.schedule.endswith("cosine"):
            raise UserError(
                f"optim.decay_steps has no effect with optim.schedule = {self.schedule}",
                "leave it out: --optim.decay_steps null; or use a cosine: --optim.schedule cosine",
            )
        if self.steps_per_epoch is not None and not 0 < self.steps_per_epoch < math.inf:
            raise UserError(f"optim.steps_per_epoch cannot be {self.steps_per_epoch}", "leave it out: it is computed")
