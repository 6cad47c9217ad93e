"""Learning-rate schedules: pure functions from the step to a multiplier of the peak learning rate.

cosine       linear warmup, then half a cosine down to min_lr
trapezoid    warmup, constant, then linear cooldown: the constant part can be extended without changing the schedule
constant     warmup, constant
"""

import math
from collections.abc import Callable

from fledge.optim.config import OptimConfig


def lr_multiplier(config: OptimConfig, step: int, steps: int) -> float:
    """For update number `step`, counted from 0, of a run of `steps`."""
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    floor = config.min_lr / config.lr
    decay = SCHEDULES[config.schedule](step, config.warmup_steps, steps, config.cooldown)  # 1 at the peak, 0 at the end
    return floor + (1 - floor) * decay


def _cosine(step: int, warmup: int, steps: int, _: float) -> float:
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return (1 + math.cos(math.pi * progress)) / 2


def _trapezoid(step: int, warmup: int, steps: int, cooldown: float) -> float:
    cooldown_steps = min(round(cooldown * steps), max(0, steps - warmup))
    return min(1.0, max(0.0, (steps - step) / max(1, cooldown_steps)))


def _constant(_step: int, _warmup: int, _steps: int, _cooldown: float) -> float:
    return 1.0


SCHEDULES: dict[str, Callable[[int, int, int, float], float]] = {
    "cosine": _cosine,
    "trapezoid": _trapezoid,
    "constant": _constant,
}
