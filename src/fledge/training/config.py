"""[train]: length, batch sizes, and the intervals of logging, evaluation and checkpoints."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from fledge.core.config import check_counts, listed_divisors, setting
from fledge.core.errors import UserError
from fledge.datasets.config import DataConfig
from fledge.model.config import ModelConfig
from fledge.optim.config import OptimConfig
from fledge.tokenizers.config import TokenizerConfig
from fledge.tracking.config import TrackConfig

if TYPE_CHECKING:
    from fledge.core.distributed import World


@dataclass(frozen=True)
class TrainConfig:
    steps: int = setting(2000, "updates of the weights")
    epochs: float | None = setting(None, "passes over the training split; overrides steps")
    minutes: float | None = setting(
        None, "time of the whole command: the run gets as many steps as fit, steps being the plan; unset: exactly steps"
    )
    step_limit: int | None = setting(None, "most steps that minutes may lead to; unset: no limit")
    ngram_steps: int = setting(
        0,
        "before the first step, updates of embedding, head and bigram table on the n-gram counts of the text; 0: none",
    )
    batch: int = setting(32, "sequences per update (global batch size)")
    context: int | None = setting(
        None, "tokens of a sequence in training, where the model is made for longer ones; unset: model.context"
    )
    micro_batch: Literal["auto"] | int | None = setting(
        None,
        "sequences computed at once; auto: as many as fit in memory; unset: the whole batch",
    )
    seed: int = setting(1337, "random seed: initialization, data order, dropout, samples")
    device: Literal["auto", "cpu", "cuda", "mps"] = setting("auto", "device to train on")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting("auto", "precision of matrix products")
    threads: int | None = setting(None, "CPU threads of each process; unset: one for each usable core; kept by resume")
    compile: Literal["auto"] | bool = setting("auto", "use torch.compile; auto: if the run is long enough to save time")
    chunked_loss: Literal["auto"] | bool = setting(
        "auto",
        "compute logits for a chunk of tokens at a time, to save memory; auto: if all would not fit, or it is faster",
    )
    sampled_softmax: int = setting(
        0, "train on the softmax over the targets of a batch and so many other tokens, which stand for the rest; 0: all"
    )
    activation_checkpointing: bool = setting(
        False, "recompute the activations of a block in its backward pass: a third more compute, far less memory"
    )
    parallel: Literal["ddp", "fsdp"] = setting(
        "ddp", "ddp: every process holds the whole model; fsdp: weights are sharded"
    )
    sharded_save: bool = setting(False, "fsdp: each process writes its own shards of a checkpoint")
    loss_spike: float = setting(2.0, "loss increase over the recent median, in nats, that triggers a rollback; 0: off")
    rollback: bool = setting(
        True, "on divergence, restore the last healthy checkpoint and skip the batches; false: stop"
    )
    grad_clip: float = setting(1.0, "maximum gradient norm; 0: no clipping")
    clip_each: Literal["update", "micro_batch"] = setting(
        "update", "when gradients are clipped; micro_batch: the accumulated gradient after each backward pass, too"
    )
    log_every: int = setting(10, "steps between rows of metrics.csv")
    eval_every: int | None = setting(None, "steps between evaluations; 0: never; unset: 10 to 20 in the run")
    patience: int | None = setting(
        None, "evaluations in a row without a lower validation loss after which the run ends; unset: never"
    )
    eval_tokens: int | None = setting(
        None, "size of the validation sample; unset: all evaluations together cost 3.5 % of the compute"
    )
    sample_every: int = setting(250, "steps between samples; 0: never")
    save_seconds: float = setting(60, "most seconds of work between checkpoints, besides those at fixed steps; 0: off")
    save_every: int | None = setting(
        None, "steps between checkpoints, besides those of evaluations; unset: eval_every, or a tenth of the steps"
    )
    keep_last: int = setting(2, "newest checkpoints to keep with optimizer state, besides the best")
    history: int = setting(20, "checkpoints at log-spaced steps whose weights are kept, for looking back; 0: none")

    def shards(self, world: "World") -> int:
        """How many ranks share each weight: all with FSDP, else 1."""
        return world.size if self.parallel == "fsdp" else 1

    def __post_init__(self) -> None:
        counts = ["steps", "step_limit", "batch", "context", "log_every", "save_every", "keep_last", "eval_tokens"]
        counts += ["threads", "patience"]
        check_counts(self, "train", counts + ["micro_batch"] * (self.micro_batch != "auto"))
        amounts = ["ngram_steps", "sampled_softmax", "eval_every", "sample_every", "save_seconds", "history"]
        for name in (*amounts, "grad_clip", "loss_spike"):
            if not (getattr(self, name) or 0) >= 0:
                raise UserError(f"train.{name} cannot be {getattr(self, name)}", "it must be a number of at least 0")
        if self.epochs is not None and not 0 < self.epochs < math.inf:
            raise UserError(f"train.epochs cannot be {self.epochs}", "it must be a number above 0")
        self._check_minutes()
        if not 0 <= self.seed < 2**63:
            raise UserError(f"train.seed cannot be {self.seed}", "it must be a whole number of at least 0")
        if isinstance(self.micro_batch, int) and self.batch % self.micro_batch:
            possible = math.gcd(self.micro_batch, self.batch)
            raise UserError(
                f"train.micro_batch = {self.micro_batch} does not divide train.batch = {self.batch}",
                f"it can be {listed_divisors(self.batch)}: --train.micro_batch {possible}",
            )
        if self.patience is not None and self.eval_every == 0:
            raise UserError(
                "train.patience needs evaluations, and train.eval_every = 0 turns them off",
                "set the interval: --train.eval_every 100; or do without: --train.patience null",
            )
        if self.clip_each == "micro_batch":
            self._check_clip_each()

    def _check_minutes(self) -> None:
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise UserError(f"train.minutes cannot be {self.minutes}", "it must be a number above 0")
        if self.step_limit is None:
            return
        if self.minutes is None:
            hint = "set the time: --train.minutes 5; or the length: --train.steps 1000"
            raise UserError("train.step_limit has no effect without train.minutes", hint)
        if self.step_limit < self.steps:
            hint = f"plan fewer steps: --train.steps {self.step_limit}"
            raise UserError(f"train.step_limit = {self.step_limit} is below train.steps = {self.steps}", hint)

    def _check_clip_each(self) -> None:
        """What every micro-batch changes must not depend on the machine."""
        name, update = "train.clip_each = micro_batch", "or clip once per update: --train.clip_each update"
        if not self.grad_clip:
            raise UserError(f"{name} has no effect with train.grad_clip = 0", f"set --train.grad_clip 1; {update}")
        if self.micro_batch == "auto":
            raise UserError(
                f"{name} needs a fixed micro-batch: with auto, the result would depend on the free memory",
                f"set its size: --train.micro_batch {self.batch}; {update}",
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

    @property
    def step_tokens(self) -> int:
        """Tokens of a training step, over all processes."""
        return self.train.batch * self.train_context

    @property
    def train_context(self) -> int:
        """Tokens of a training sequence."""
        return self.train.context or self.model.context

    @property
    def trained_model(self) -> ModelConfig:
        """The model as training sees it: its context is that of the training sequences."""
        context, window = self.train_context, self.model.window
        return replace(self.model, context=context, window=window if window and window < context else None)

    def __post_init__(self) -> None:
        context, model = self.train.context, self.model
        if context is None or context == model.context:
            return
        whole = "or train on whole contexts: --train.context null"
        if context > model.context:
            raise UserError(
                f"train.context = {context} is longer than model.context = {model.context}",
                f"use a longer model.context, {whole}",
            )
        if model.positions != "rotary" or (model.window or model.context) > context:
            raise UserError(
                f"train.context = {context} is shorter than model.context = {model.context}, and this model would learn"
                " nothing of the distances between",
                f"limit them: --model.window {context} --model.positions rotary, {whole}",
            )
