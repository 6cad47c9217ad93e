"""The preset table: what each preset is made of, and what it costs."""

from dataclasses import dataclass, replace
from typing import Any

from fledge.core.config import Layer
from fledge.core.errors import UserError, nearest
from fledge.model import flops
from fledge.model.config import DROPOUT_ON, ModelConfig
from fledge.settings.layers import preset_files, read_preset
from fledge.settings.pipeline import validated
from fledge.training.config import Settings

BIASES = {
    (): "no biases",
    ("qkv", "output", "mlp", "norm"): "biases",
    ("qkv", "output", "mlp", "norm", "head"): "biases everywhere",
}


@dataclass(frozen=True)
class PresetInfo:
    """Bytes are those of bfloat16."""

    name: str
    parameters: int
    non_embedding_parameters: int
    title: str
    source: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    context: int
    vocab_size: int
    parts: list[str]
    corpus: str
    forward_flops_per_token: int
    training_flops_per_token: int
    cache_bytes_per_token: int
    cache_bytes: int
    micro_batch: int
    activation_bytes: int


def list_presets() -> list[PresetInfo]:
    """All presets, by family and size."""
    return sorted(map(describe_preset, preset_files()), key=lambda it: (it.name.partition("-")[0], it.parameters))


def preset_text(name: str) -> str:
    """The TOML file of a preset."""
    files = preset_files()
    if name not in files:
        raise UserError(f"unknown preset '{name}'", nearest(name, files) or "fledge presets lists them")
    return files[name].read_text(encoding="utf-8").rstrip()


def describe_preset(name: str) -> PresetInfo:
    settings, about = preset_settings(name)
    model, asked = settings.model, settings.train.micro_batch
    assert model.vocab_size is not None
    micro_batch = asked if isinstance(asked, int) else settings.train.batch
    chunked = model.vocab_size >= flops.LARGE_VOCABULARY
    return PresetInfo(
        name=name,
        parameters=flops.parameter_count(model),
        non_embedding_parameters=flops.non_embedding_parameters(model),
        title=about["title"],
        source=about["source"],
        layers=model.n_layer,
        width=model.n_embd,
        heads=model.n_head,
        kv_heads=model.kv_heads,
        head_width=model.head_width,
        mlp_width=model.mlp_hidden_width,
        context=model.context,
        vocab_size=model.vocab_size,
        parts=model_parts(model),
        corpus=", ".join(settings.data.sources),
        forward_flops_per_token=flops.forward_flops(model),
        training_flops_per_token=flops.training_flops(model),
        cache_bytes_per_token=flops.cache_bytes_per_token(model),
        cache_bytes=flops.cache_bytes(model),
        micro_batch=micro_batch,
        activation_bytes=flops.activation_bytes(model, micro_batch, flops.BFLOAT16, chunked=chunked),
    )


def preset_settings(name: str, *overrides: Layer) -> tuple[Settings, dict[str, Any]]:
    """(settings, [about]) of a preset, with the vocabulary that its model is expected to have."""
    layer, about = read_preset(name)
    settings = validated(layer, *overrides)
    model = replace(settings.model, vocab_size=expected_vocab_size(settings, about.get("vocab_size")))
    return replace(settings, model=model), about


def expected_vocab_size(settings: Settings, characters: int | None = None) -> int:
    """The vocabulary before there is a text; `characters`: that of the preset's own corpus by character."""
    asked = settings.model.vocab_size or settings.tokenizer.vocab_size
    usual = characters if settings.tokenizer.kind == "char" else None
    return asked or usual or settings.tokenizer.size


def model_parts(model: ModelConfig) -> list[str]:
    """What the model is made of, in the words of its settings."""
    biased = [name for name in ("qkv", "output", "mlp", "norm", "head") if getattr(model, f"{name}_bias")]
    parts = [
        model.block != "pre_norm" and model.block,
        model.positions,
        model.norm,
        model.qk_norm and "qk_norm",
        model.mlp,
        BIASES.get(tuple(biased)) or f"biases: {' '.join(biased)}",
        model.tied and "tied",
        model.lora and f"LoRA of rank {model.lora}",
        model.value_head and "value head",
        model.bigram_rows and f"bigram table ({model.bigram_rows:,} rows)",
        model.window and f"window {model.window}",
        model.softcap and f"softcap {model.softcap:g}",
        not model.final_norm and "no final norm",
        model.init != "gpt2" and f"{model.init} initialization",
        model.dropout and _dropout(model),
    ]
    return [part for part in parts if part]


def _dropout(model: ModelConfig) -> str:
    places = "" if model.dropout_on == DROPOUT_ON else f" on {', '.join(model.dropout_on)}"
    return f"dropout {model.dropout:g}{places}"
