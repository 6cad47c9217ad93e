"""Learning-rate schedules: pure functions from the step to a multiplier of the peak learning rate.

cosine         linear warmup, then half a cosine down to min_lr
epoch_cosine   the same for whole epochs: constant within each, as a scheduler that is stepped once per epoch
cut_cosine     half a cosine over decay_steps from the end of the warmup, cut at step decay_steps: then min_lr
cyclic_cosine  the same half a cosine, which rises and falls again after decay_steps, as torch's CosineAnnealingLR does
trapezoid      warmup, constant, then linear cooldown: the constant part can be extended without changing the schedule
constant       warmup, constant

The cosines end at decay_steps, or at the end of the run. After that the multiplier of the others stays at min_lr / lr.
"""

import math
from collections.abc import Callable

from fledge.optim.config import OptimConfig

ROUNDING = 1e-9  # of the number of an epoch: a step at its boundary belongs to the new one


def lr_multiplier(config: OptimConfig, step: float, steps: int) -> float:
    """For update number `step`, counted from 0, of a run of `steps`. Between two steps where a run is stretched."""
    if config.lag:
        if step == 0:
            return 1.0
        step = max(0, step - 1)
    if step < config.warmup_steps:
        return WARMUPS[config.warmup](step, config.warmup_steps)
    floor = config.min_lr / config.lr
    decay = SCHEDULES[config.schedule](config, step, steps)  # 1 at the peak, 0 at the end
    return floor + (1 - floor) * decay


def reaches_peak(config: OptimConfig, steps: int) -> bool:
    """Whether the warmup ends within a run of `steps`."""
    last = steps - 1 - config.lag
    return not config.warmup_steps or last >= config.warmup_steps - (config.warmup == "to_peak")


def _cosine(config: OptimConfig, step: float, steps: int) -> float:
    return _half_cosine(min(1.0, _progress(config, step, steps)))


def _cyclic_cosine(config: OptimConfig, step: float, steps: int) -> float:
    return _half_cosine(_progress(config, step, steps))


def _progress(config: OptimConfig, step: float, steps: int) -> float:
    """0 at the end of the warmup, 1 at decay_steps or the end of the run."""
    end = config.decay_steps or steps
    return (step - config.warmup_steps) / max(1, end - config.warmup_steps)


def _epoch_cosine(config: OptimConfig, step: float, steps: int) -> float:
    assert config.steps_per_epoch is not None
    begin = math.floor(step / config.steps_per_epoch + ROUNDING) * config.steps_per_epoch  # of the epoch
    end, after_warmup = config.decay_steps or steps, max(0.0, begin - config.warmup_steps)
    return _half_cosine(min(1.0, after_warmup / max(1, end - config.warmup_steps)))


def _cut_cosine(config: OptimConfig, step: float, steps: int) -> float:
    end = config.decay_steps or steps
    return _half_cosine((step - config.warmup_steps) / end) if step <= end else 0.0


def _half_cosine(progress: float) -> float:
    """From 1 at the beginning to 0 at the end."""
    return (1 + math.cos(math.pi * progress)) / 2


def _trapezoid(config: OptimConfig, step: float, steps: int) -> float:
    cooldown_steps = min(round(config.cooldown * steps), max(0, steps - config.warmup_steps))
    return min(1.0, max(0.0, (steps - step) / max(1, cooldown_steps)))


def _constant(_config: OptimConfig, _step: float, _steps: int) -> float:
    return 1.0


# Number of the update from 0, number of warmup steps → multiplier.
WARMUPS: dict[str, Callable[[float, int], float]] = {
    "inner": lambda step, warmup: (step + 1) / (warmup + 1),
    "from_zero": lambda step, warmup: step / warmup,
    "to_peak": lambda step, warmup: min(1.0, (step + 1) / warmup),
}
SCHEDULES: dict[str, Callable[[OptimConfig, float, int], float]] = {
    "cosine": _cosine,
    "epoch_cosine": _epoch_cosine,
    "cut_cosine": _cut_cosine,
    "cyclic_cosine": _cyclic_cosine,
    "trapezoid": _trapezoid,
    "constant": _constant,
}
