"""Fills in the settings that depend on the data or the machine, so that a saved run repeats exactly.

    complete_settings   vocabulary size, path of the dataset, prompt of the samples, then decide_settings
    decide_settings     steps, evaluation interval, compile, chunked loss, attention: needs token counts only

Refuses what cannot work (memory, vocabulary, prompt) before anything starts.
"""

from dataclasses import fields, replace
from typing import Any

from fledge.alignment.config import AlignSettings
from fledge.alignment.rollout import with_path
from fledge.core.config import to_toml
from fledge.core.device import Machine, total_memory
from fledge.core.errors import UserError
from fledge.core.files import human_bytes
from fledge.datasets.config import TEXTS, DataConfig, building_settings
from fledge.datasets.shards import Dataset
from fledge.evaluation.schedule import evaluation_interval, round_up, sample_size
from fledge.model.config import ModelConfig
from fledge.model.flops import parameter_count
from fledge.settings.prompt import sample_prompt
from fledge.text.inputs import is_url
from fledge.tokenizers.config import TokenizerConfig
from fledge.training.attention_speed import fastest_attention
from fledge.training.config import Settings
from fledge.training.early_stopping import nothing_to_wait_for
from fledge.training.micro_batch import SATURATING_TOKENS, parameter_bytes, should_chunk_loss
from fledge.training.ngram_fit import check_ngram_fit
from fledge.training.setup import check_clipping, window_sampler

EVALUATIONS = 10  # of an alignment run, besides the one before its first step
SAVES = 10  # of a run without evaluations, at fixed steps, so that a rollback has a target
# Multiplications of a whole run (six for each weight and token) above which compiling was measured to be faster.
WORTH_COMPILING = {"cpu": 2e13, "cuda": 1e16}


def complete_settings(settings: Settings, dataset: Dataset, machine: Machine) -> Settings:
    """All settings of a run on this dataset and machine; nothing is left to be decided later."""
    known = dataset.tokenizer.vocab_size
    vocab_size = settings.model.vocab_size or known
    if vocab_size < known:
        raise UserError(
            f"model.vocab_size = {vocab_size} is smaller than the tokenizer's {known}",
            "leave model.vocab_size out: it then follows the tokenizer",
        )
    if vocab_size < 2:
        raise UserError("a vocabulary of 1 token leaves nothing to predict", "train on a text with more characters")
    model = replace(settings.model, vocab_size=vocab_size)
    track = replace(settings.track, prompt=sample_prompt(settings.track.prompt, dataset))
    built = dataset.manifest.get("data") or building_settings(DataConfig())  # nanoGPT's says nothing
    built = {name: tuple(value) if isinstance(value, list) else value for name, value in built.items()}
    texts: dict[str, Any] = {name: getattr(settings.data, name) for name in TEXTS if settings.data.path is None}
    texts = {**dict.fromkeys(TEXTS), **texts}
    data = replace(settings.data, **built, **texts, path=dataset_path(settings.data.path, dataset))
    val_tokens = len(dataset.splits["val"]) if "val" in dataset.available_splits else 0
    if settings.train.patience is not None and not val_tokens:
        raise nothing_to_wait_for()
    complete = replace(settings, model=model, data=data, track=track)
    return decide_settings(complete, len(dataset.split("train")), val_tokens, machine)


def complete_alignment(settings: AlignSettings, machine: Machine) -> AlignSettings:
    """All settings of an alignment run on this machine."""
    model, train = settings.model, settings.train
    check_memory(model, machine, train.shards(machine.world))
    check_clipping(train, machine)
    if train.epochs is not None:
        raise UserError("train.epochs has no effect on an alignment run", "set the length with --train.steps")
    if train.ngram_steps:
        raise UserError("train.ngram_steps fits new weights, and alignment starts from a model", "leave it out")
    if train.sampled_softmax:
        raise UserError("train.sampled_softmax is for pretraining: answers are few tokens", "leave it out")
    if train.minutes is not None:
        raise UserError("an alignment run has no train.minutes", "set the length with --train.steps")
    if settings.optim.schedule == "epoch_cosine":
        raise UserError("an alignment run has no epochs for epoch_cosine", "use --optim.schedule cosine")
    eval_every = round_up(train.steps / EVALUATIONS) if train.eval_every is None else train.eval_every
    train = replace(
        train,
        device=machine.device,
        dtype=machine.dtype,
        threads=machine.threads,
        eval_every=eval_every,
        save_every=train.save_every or eval_every or -(-train.steps // SAVES),
        compile=train.compile is True,
        chunked_loss=train.chunked_loss is True,
    )
    attention = "sdpa" if model.attention == "auto" else model.attention
    return with_path(replace(settings, model=replace(model, attention=attention), train=train), machine)


def decide_settings(settings: Settings, train_tokens: int, val_tokens: int, machine: Machine) -> Settings:
    """Fill in what depends on the machine and on the number of tokens in the two splits."""
    model, train, trained = settings.model, settings.train, settings.trained_model
    check_memory(model, machine, train.shards(machine.world))
    check_clipping(train, machine)
    if train.ngram_steps:
        check_ngram_fit(model)
    sampler, steps = window_sampler(settings, train_tokens), train.steps
    steps_per_epoch = sampler.steps_per_epoch(train.batch)
    if train.epochs is not None:
        steps = max(1, round(train.epochs * steps_per_epoch))
        train = replace(train, steps=steps)  # refuses an absurd number of steps
    step_tokens, eval_every = train.batch * trained.context, train.eval_every
    if eval_every is None:
        eval_every = evaluation_interval(steps, step_tokens, model.context, train.minutes)
    eval_tokens = train.eval_tokens or sample_size(steps, step_tokens, model.context, eval_every)
    compile = should_compile(trained, train.batch, steps, machine) if train.compile == "auto" else train.compile
    local_batch, auto = max(1, train.batch // machine.world.size), train.micro_batch == "auto"
    micro_batch = train.micro_batch if isinstance(train.micro_batch, int) else local_batch
    if train.chunked_loss == "auto":
        rows = min(local_batch, -(-SATURATING_TOKENS // trained.context) if auto else micro_batch)
        train = replace(train, chunked_loss=should_chunk_loss(trained, rows, machine, compiled=compile))
    if model.attention == "auto":
        model = replace(model, attention=fastest_attention(trained, micro_batch, machine))
    train = replace(
        train,
        epochs=None,
        device=machine.device,
        dtype=machine.dtype,
        threads=machine.threads,
        eval_every=eval_every,
        eval_tokens=min(eval_tokens, val_tokens) or None,
        save_every=train.save_every or eval_every or -(-steps // SAVES),
        compile=compile,
    )
    by_epoch = settings.optim.schedule == "epoch_cosine"
    optim = replace(settings.optim, steps_per_epoch=steps_per_epoch if by_epoch else None)
    data = replace(settings.data, stride=None if settings.data.order == "random" else sampler.stride)
    return replace(settings, model=model, data=data, optim=optim, train=train)


def config_toml(settings: Settings, dataset: Dataset) -> str:
    """The config.toml of a run. How nanoGPT's .bin files were made is unknown, so it says nothing of that."""
    unknown = () if "data" in dataset.manifest else [f"data.{name}" for name in building_settings(settings.data)]
    return to_toml(settings, omit=unknown)


def alignment_toml(settings: AlignSettings) -> str:
    """The config.toml of an alignment run, whose text and tokenizer are described elsewhere."""
    unused = {"data": DataConfig, "tokenizer": TokenizerConfig}
    return to_toml(settings, omit=[f"{section}.{each.name}" for section, cls in unused.items() for each in fields(cls)])


def dataset_path(given: str | None, dataset: Dataset) -> str:
    """Where resuming finds the dataset: its URL, if it has one, since the cache is different on every machine."""
    return given if given and is_url(given) else str(dataset.folder.resolve())


def check_memory(model: ModelConfig, machine: Machine, shards: int = 1) -> None:
    """Refuse a model whose weights and optimizer state exceed the memory of a device. `shards`: FSDP ranks."""
    needed, available = parameter_bytes(model, shards), total_memory(machine.device)
    if needed > available:
        raise UserError(
            f"a model of {parameter_count(model):,} parameters takes {human_bytes(needed)} to train"
            f"{' in each process' if shards > 1 else ''}; this machine has {human_bytes(available)}",
            "make it smaller: fewer model.n_layer, or a smaller model.n_embd"
            + (", or shard it: --train.parallel fsdp" if machine.world.size > shards else ""),
        )


def should_compile(model: ModelConfig, batch: int, steps: int, machine: Machine) -> bool:
    """Whether the run is long enough to make up for the compile time."""
    if machine.device not in WORTH_COMPILING:
        return False
    return 72 * steps * batch * model.context * model.n_layer * model.n_embd**2 > WORTH_COMPILING[machine.device]
