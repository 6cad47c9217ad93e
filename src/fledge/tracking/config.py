"""[track]: the loggers of a run, and the samples generated during training."""

import math
from dataclasses import dataclass

from fledge.core.config import setting
from fledge.core.errors import UserError, nearest
from fledge.tracking.loggers import LOGGERS

NAMES = ", ".join(LOGGERS)


@dataclass(frozen=True)
class TrackConfig:
    loggers: tuple[str, ...] = setting((), f"where metrics go besides the run folder: {NAMES}")
    project: str = setting("fledge", "project name on Weights & Biases and in trackio")
    prompt: str | None = setting(
        None, "prompt of the samples during training; unset: first words of a held-out document"
    )
    statistics: int = setting(
        0,
        "steps between statistics of each layer: gradient norm, update ratio, activation RMS, attention entropy;"
        " 0: never",
    )
    sample_tokens: int = setting(200, "length of a sample")
    temperature: float = setting(0.8, "sampling temperature of the samples; 0: greedy")

    def __post_init__(self) -> None:
        for name in self.loggers:
            if name not in LOGGERS:
                hint = nearest(name, LOGGERS) or f"choose from: {NAMES}"
                raise UserError(f"track.loggers cannot hold '{name}'", hint)
        for key in ("statistics", "sample_tokens"):
            if getattr(self, key) < 0:
                raise UserError(f"track.{key} cannot be {getattr(self, key)}", "it takes a whole number from 0 up")
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"track.temperature cannot be {self.temperature}", "it takes a number from 0 up")
