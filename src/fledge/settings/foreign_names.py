"""The names that other programs have for settings: nanoGPT, nanochat, transformers, litgpt."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fledge.core.errors import UserError

if TYPE_CHECKING:
    from fledge.training.config import Settings

# Names of settings in other programs, normalized (lower case, _ for -) → the setting here.
SETTINGS = {
    "optim.lr": ("learning_rate", "max_lr", "peak_lr", "adam_lr"),
    "optim.min_lr": ("min_learning_rate", "final_lr", "lr_min", "eta_min"),
    "optim.muon_lr": ("matrix_lr",),
    "optim.embed_lr": ("embedding_lr",),
    "optim.head_lr": ("unembedding_lr",),
    "optim.warmup_steps": ("warmup_iters", "lr_warmup_steps", "num_warmup_steps", "warmup_ratio"),
    "optim.schedule": ("lr_scheduler", "lr_scheduler_type", "lr_schedule", "decay_lr"),
    "optim.decay_steps": ("lr_decay_iters", "lr_decay_steps", "decay_iters", "t_max"),
    "optim.cooldown": ("warmdown_ratio",),
    "optim.weight_decay": ("wd",),
    "optim.betas": ("beta1", "beta2", "adam_beta1", "adam_beta2"),
    "optim.eps": ("adam_epsilon", "adam_eps"),
    "optim.optimizer": ("optim", "opt"),
    "train.steps": ("max_iters", "max_steps", "num_iterations", "iterations", "iters", "num_steps", "train_steps"),
    "train.epochs": ("num_epochs", "num_train_epochs", "max_epochs"),
    "train.batch": ("batch_size", "global_batch_size", "total_batch_size", "train_batch_size", "bs"),
    "train.micro_batch": (
        "micro_batch_size",
        "device_batch_size",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "gradient_accumulation_iters",
        "grad_accum",
    ),
    "train.grad_clip": ("clip", "clip_grad", "max_grad_norm", "gradient_clip_val", "max_norm"),
    "train.eval_every": ("eval_interval", "eval_steps", "eval_iters", "val_interval", "val_every", "eval_freq"),
    "train.patience": ("early_stopping", "early_stopping_patience", "early_stop"),
    "train.save_every": ("save_interval", "save_steps", "ckpt_interval", "checkpoint_every", "checkpoint_interval"),
    "train.log_every": ("log_interval", "logging_steps", "log_freq"),
    "train.sample_every": ("sample_interval", "generate_every"),
    "train.keep_last": ("save_total_limit",),
    "train.seed": ("random_seed", "manual_seed"),
    "train.dtype": ("precision", "mixed_precision", "bf16", "fp16", "amp"),
    "train.compile": ("torch_compile", "use_compile"),
    "train.parallel": ("fsdp", "ddp", "strategy", "distributed"),
    "train.device": ("accelerator", "gpu", "cuda", "cpu", "mps", "device_type"),
    "train.activation_checkpointing": ("gradient_checkpointing", "checkpoint_activations"),
    "model.context": (
        "block_size",
        "context_length",
        "context_size",
        "seq_len",
        "seq_length",
        "sequence_length",
        "sequence_len",
        "max_seq_len",
        "max_seq_length",
        "n_ctx",
        "n_positions",
    ),
    "model.n_layer": ("depth", "layers", "n_layers", "num_layers", "num_hidden_layers"),
    "model.n_head": ("heads", "n_heads", "num_heads", "num_attention_heads"),
    "model.n_kv_head": ("n_kv_heads", "num_key_value_heads", "n_query_groups"),
    "model.n_embd": ("n_embed", "d_model", "dim", "embed_dim", "hidden_size", "width"),
    "model.mlp_width": ("intermediate_size", "d_ff", "ffn_dim"),
    "model.block": ("norm_first", "pre_ln", "post_ln", "norm_position"),
    "model.dropout": ("p_dropout", "dropout_rate", "dropout_p", "attn_pdrop", "resid_pdrop", "embd_pdrop"),
    "model.init": ("initialization", "init_method", "initializer_range"),
    "model.size": ("size", "params", "num_params", "model_size"),
    "tokenizer.vocab_size": ("vocab_size", "vocab"),
    "data.val": ("val_split", "val_size", "val_fraction", "validation_split", "eval_split"),
    "data.field": ("text_column", "text_field", "column", "text_key"),
    "track.loggers": (
        "wandb",
        "wandb_log",
        "report_to",
        "logger",
        "logger_name",
        "tensorboard",
        "trackio",
        "use_wandb",
    ),
    "track.project": ("wandb_project", "project_name"),
}
# Values that are part of what is suggested, instead of the word's own.
VALUES = {
    **dict.fromkeys(("wandb", "wandb_log", "use_wandb"), "wandb"),
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    **dict.fromkeys(("bf16", "amp"), "bfloat16"),
    "fp16": "float16",
    **dict.fromkeys(("gpu", "cuda"), "cuda"),
    "cpu": "cpu",
    "mps": "mps",
    "fsdp": "fsdp",
    "ddp": "ddp",
    **dict.fromkeys(("warmup_ratio", "decay_lr", "gradient_accumulation_steps", "initializer_range"), "VALUE"),
    "norm_first": "pre_norm",
    "pre_ln": "pre_norm",
    "post_ln": "post_norm",
    **dict.fromkeys(("beta1", "adam_beta1", "beta2", "adam_beta2"), "'[0.9, 0.95]'"),
}
FLAGS = ("compile", "torch_compile", "use_compile", "dedup", "gradient_checkpointing", "rollback")


def normalized(word: str) -> str:
    return word.lstrip("-").replace("-", "_").lower()


def look_up(table: dict[str, tuple[str, ...]], word: str) -> str:
    return next((answer for answer, words in table.items() if word in words), "")


def setting_called(key: str) -> str:
    """The dotted setting whose name is `key`, if there is exactly one."""
    found = [name for name in setting_names() if name.partition(".")[2] == key]
    return found[0] if len(found) == 1 else ""


def setting_names(settings: type["Settings"] | None = None) -> list[str]:
    """The settings of a training run; settings: of an alignment run."""
    from dataclasses import fields
    from typing import get_type_hints

    from fledge.training.config import Settings

    sections = get_type_hints(settings or Settings).items()
    return [f"{section}.{each.name}" for section, config in sections for each in fields(config)]


def refuse_foreign_settings(words: Iterable[str]) -> None:
    """Refuse `--train.batch_size 8` and say that it is train.batch."""
    for word in words:
        name = word.partition("=")[0].removeprefix("--")
        known = look_up(SETTINGS, normalized(name.rpartition(".")[2]))
        if word.startswith("--") and known and name not in setting_names() and name != known:
            raise UserError(f"unknown setting '{name}'", f"did you mean '{known}'?")
