"""[track]: who else listens to a run, and what is sampled."""

import math
from dataclasses import dataclass

from fledge.core.config import setting
from fledge.core.errors import UserError


@dataclass(frozen=True)
class TrackConfig:
    wandb: bool = setting(False, "send to Weights & Biases too: pip install 'fledge[wandb]'")
    tensorboard: bool = setting(False, "write TensorBoard files too: pip install 'fledge[tensorboard]'")
    project: str = setting("fledge", "project name at Weights & Biases")
    prompt: str | None = setting(None, "how samples during training begin; unset: as a document begins")
    sample_tokens: int = setting(200, "length of a sample")
    temperature: float = setting(0.8, "boldness of samples: 0 is greedy")

    def __post_init__(self) -> None:
        if self.sample_tokens < 0:
            raise UserError(f"track.sample_tokens cannot be {self.sample_tokens}", "it takes a whole number from 0 up")
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"track.temperature cannot be {self.temperature}", "0 is greedy, 1 is the model's own")
