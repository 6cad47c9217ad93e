"""[train]: how long, in what portions, and how often to look."""

import math
from dataclasses import dataclass
from typing import Literal

from fledge.core.config import check_counts, listed_divisors, setting
from fledge.core.errors import UserError
from fledge.datasets.config import DataConfig
from fledge.model.config import ModelConfig
from fledge.optim.config import OptimConfig
from fledge.tokenizers.config import TokenizerConfig
from fledge.tracking.config import TrackConfig


@dataclass(frozen=True)
class TrainConfig:
    steps: int = setting(2000, "updates of the weights")
    epochs: float | None = setting(None, "passes over the training text; wins over steps")
    batch: int = setting(32, "sequences of one update")
    micro_batch: Literal["auto"] | int | None = setting(
        None, "sequences computed at once, to save memory; auto: as many as fit; unset: the whole batch"
    )
    seed: int = setting(1337, "where all chance begins")
    device: Literal["auto", "cpu", "cuda", "mps"] = setting("auto", "where to compute")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting("auto", "precision of matrix products")
    compile: Literal["auto"] | bool = setting("auto", "let torch.compile write faster code first; auto: when it pays")
    chunked_loss: Literal["auto"] | bool = setting(
        "auto",
        "logits for a chunk of tokens at a time, to save memory; auto: where they would not fit, or it is faster",
    )
    activation_checkpointing: bool = setting(
        False, "compute the activations of a block again for its backward pass: a third more work, far less memory"
    )
    parallel: Literal["ddp", "fsdp"] = setting(
        "ddp", "what each of many processes holds: the whole model, or a part of each weight"
    )
    sharded_save: bool = setting(False, "fsdp: each process writes its own part of a checkpoint")
    loss_spike: float = setting(
        2.0, "nats by which a loss may exceed what is usual before it is an accident; 0: no limit"
    )
    rollback: bool = setting(True, "after an accident go back to a checkpoint and around the text; false: stop")
    grad_clip: float = setting(1.0, "largest length of the gradient; 0: no limit")
    log_every: int = setting(10, "steps between rows of metrics.csv")
    eval_every: int | None = setting(
        None, "steps between looks at the whole validation split; 0: never; unset: as often as costs a twentieth"
    )
    sample_every: int = setting(250, "steps between samples; 0: never")
    save_every: int | None = setting(None, "steps between checkpoints; unset: eval_every")
    keep_last: int = setting(2, "how many of the newest checkpoints stay, besides the best")

    def __post_init__(self) -> None:
        counts = ["steps", "batch", "log_every", "save_every", "keep_last"]
        check_counts(self, "train", counts + ["micro_batch"] * (self.micro_batch != "auto"))
        for name in ("eval_every", "sample_every", "grad_clip", "loss_spike"):
            if not (getattr(self, name) or 0) >= 0:
                raise UserError(f"train.{name} cannot be {getattr(self, name)}", "it takes a number from 0 up")
        if self.epochs is not None and not 0 < self.epochs < math.inf:
            raise UserError(f"train.epochs cannot be {self.epochs}", "it takes a number above 0")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"train.seed cannot be {self.seed}", "it takes a whole number from 0 up")
        if isinstance(self.micro_batch, int) and self.batch % self.micro_batch:
            raise UserError(
                f"train.micro_batch = {self.micro_batch} does not divide train.batch = {self.batch}",
                f"it can be {listed_divisors(self.batch)}",
            )


@dataclass(frozen=True)
class Settings:
    """All settings of a run: what the TOML file holds, validated."""

    model: ModelConfig
    data: DataConfig
    tokenizer: TokenizerConfig
    optim: OptimConfig
    train: TrainConfig
    track: TrackConfig
