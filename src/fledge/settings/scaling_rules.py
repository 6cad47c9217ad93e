"""Stage 2 of the settings: from `model.size = "30M"`, the settings that follow from it.

    size   →  blocks, width, heads, MLP, vocabulary     the candidate model with about that many parameters
    model  →  learning rate                             falls with the width
    model  →  batch and steps                           20 tokens per parameter; the batch grows with them

The size counts all trained parameters, embeddings included: that is how models are named.
"""

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

from fledge.core.config import Layer, build, divisors, merge
from fledge.core.errors import UserError
from fledge.model.config import ModelConfig
from fledge.model.flops import parameter_count, training_flops
from fledge.settings.layers import FOLLOWS_FROM_SIZE, without
from fledge.tokenizers.config import PRETRAINED
from fledge.training.config import Settings

HEAD_WIDTH = 64  # fast kernels and common quantized formats require it
# Steps of nearly constant ratio, so that the heads still divide into groups.
WIDTHS = (64, 128, 192, 256, 320, 384, 512, 640, 768, 1024, 1280, 1536, 1792, 2048, 2560, 3072, 4096)
GQA_WIDTH = 768  # from this width on four queries share a key: a quarter of the cache for hardly more loss
SIZE_TOLERANCE = 0.25  # relative; from 1M to 1B the nearest candidate is within 0.15
SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}

TOKENS_PER_PARAMETER = 20  # compute-optimal: Hoffmann et al., "Chinchilla", 2022
MICRO_BATCH_TOKENS = 16_384  # enough to keep a device busy
MIN_VOCABULARY, MAX_VOCABULARY = 1024, 32_768
CHARACTERS = 128  # guess for a vocabulary of characters, before the text is read


def apply_scaling_rules(layer: Layer) -> Layer:
    """Fill in what follows from `model.size`, if there is one; settings given beside it keep their values."""
    if "size" not in layer.get("model", {}):
        return layer
    size, given = read_size(layer["model"]["size"]), without(layer, {"model": ("size",)})
    style = build(Settings, without(given, FOLLOWS_FROM_SIZE))
    nearest = nearest_model(size, style.model, known_vocabulary(style))
    shape = {key: value for key in FOLLOWS_FROM_SIZE["model"] if (value := getattr(nearest, key, None)) is not None}
    given = merge({"model": shape, "tokenizer": {}}, given)
    if style.tokenizer.kind == "bpe":
        given["tokenizer"] = {"vocab_size": nearest.vocab_size, **given["tokenizer"]}
    model = replace(build(Settings, {"model": given["model"]}).model, vocab_size=nearest.vocab_size)
    fixed = {key: value for key, value in given.get("train", {}).items() if key in ("batch", "steps")}
    train = build(Settings, {"train": fixed}).train
    lengths = batch_and_steps(model, **{key: getattr(train, key) for key in fixed})
    warmup = {"warmup_steps": lengths.pop("warmup_steps")}
    return merge({"optim": learning_rates(model) | warmup, "train": lengths}, given)


def known_vocabulary(settings: Settings) -> int | None:
    """The vocabulary size that the settings give; char: an approximation; None: chosen by the rules."""
    tokenizer = settings.tokenizer
    if settings.model.vocab_size or tokenizer.vocab_size:
        return settings.model.vocab_size or tokenizer.vocab_size
    return {"char": CHARACTERS, "bpe": None, **PRETRAINED}[tokenizer.kind]


def read_size(text: object) -> int:
    """'30M' → 30,000,000"""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmb]?)", str(text).strip().replace("_", "").lower())
    if not found:
        raise UserError(f"model.size cannot be {text!r}", "it takes a count of parameters, such as 30M or 1.5B")
    return round(float(found[1]) * SUFFIXES[found[2]])


def usual_depth(width: int) -> float:
    """Blocks that suit a width: 0.7 √width lies between the modern-* presets, which were chosen one by one."""
    return 0.7 * math.sqrt(width)


def vocabulary_for(width: int) -> int:
    """A power of two whose table is about a fifth of the model: blocks grow with width^2.5, so it grows with 1.5."""
    power = round(math.log2(1.6 * width**1.5))
    return min(MAX_VOCABULARY, max(MIN_VOCABULARY, 2**power))


def model_shape(width: int, n_layer: int, mlp: str) -> dict[str, int]:
    """The settings of [model] for a width and a number of blocks."""
    hidden = -(-8 * width // (3 * 64)) * 64 if mlp == "swiglu" else 4 * width
    gqa = {"n_kv_head": width // HEAD_WIDTH // 4} if width >= GQA_WIDTH else {}
    return {
        "n_layer": n_layer,
        "n_head": width // HEAD_WIDTH,
        **gqa,
        "n_embd": width,
        "head_dim": HEAD_WIDTH,
        "mlp_width": hidden,
    }


def candidate_shapes() -> Iterator[tuple[int, int]]:
    """(width, blocks). Depth grows until the next width is as near to its own usual depth."""
    lowest = usual_depth(WIDTHS[0]) / 2
    for width, wider in itertools.pairwise(WIDTHS):
        highest = math.sqrt(usual_depth(width) * usual_depth(wider)) * wider / width
        yield from ((width, blocks) for blocks in range(math.ceil(lowest), math.floor(highest) + 1))
        lowest = highest * (width / wider) ** 2  # as many parameters in fewer, wider blocks


@cache
def candidate_models(style: ModelConfig, vocab_size: int | None) -> list[tuple[int, ModelConfig]]:
    """(parameters, model), smallest first; all with the parts of `style`.

    A narrower model that is no smaller than a wider one is left out, so that every setting grows with the size.
    """
    kept: list[tuple[int, ModelConfig]] = []
    for width, blocks in reversed(list(candidate_shapes())):
        vocab = vocab_size or vocabulary_for(width)
        model = replace(style, **model_shape(width, blocks, style.mlp), vocab_size=vocab)  # type: ignore[arg-type]
        count = parameter_count(model)
        if not kept or count < kept[-1][0]:
            kept.append((count, model))
    return kept[::-1]


def nearest_model(size: int, style: ModelConfig, vocab_size: int | None) -> ModelConfig:
    """The candidate with the number of parameters nearest to `size`."""
    count, model = min(candidate_models(style, vocab_size), key=lambda candidate: abs(candidate[0] - size))
    if abs(count - size) > SIZE_TOLERANCE * size:
        words = f" with a vocabulary of {vocab_size:,}" if vocab_size else ""
        raise UserError(f"no model has about {size:,} parameters{words}", f"the nearest: --model.size {count}")
    return model


def learning_rates(model: ModelConfig) -> dict[str, Any]:
    """lr falls as one over the width, as AdamW's updates of a matrix require (Yang et al., "μTransfer", 2022).

    The constant is that of the modern-* presets: 3e-3 at a width of 192. Nothing above 4e-3 was tried.
    """
    return {"lr": float(f"{min(4e-3, 0.576 / model.n_embd):.2g}"), "min_lr": 0.0}


def batch_and_steps(model: ModelConfig, batch: int | None = None, steps: int | None = None) -> dict[str, int]:
    """Batch, micro-batch, steps and warmup for a model; `batch` and `steps` where they are given."""
    tokens = TOKENS_PER_PARAMETER * parameter_count(model)
    batch = batch or batch_for(tokens, model)
    steps = steps or max(1, round(tokens / (batch * model.context)))
    return {
        "batch": batch,
        "micro_batch": micro_batch_for(batch, model.context),
        "steps": steps,
        "warmup_steps": min(500, steps // 20),
    }


def batch_for(tokens: float, model: ModelConfig) -> int:
    """Sequences per update, a power of two, by the law that DeepSeek LLM (2024) fitted from 1e17 FLOPs on.

    It holds far below, too: for 165 thousand parameters and 2.7 million characters it gives 32 sequences of 128, which
    reached a loss of 1.74 in 71 s; 64 sequences 1.86 in 67 s, 16 sequences 1.72 in 90 s.
    """
    wanted = 0.292 * (tokens * training_flops(model)) ** 0.327
    return int(2 ** max(0, round(math.log2(wanted / model.context))))


def micro_batch_for(batch: int, context: int) -> int:
    """The largest divisor of the batch with at most MICRO_BATCH_TOKENS tokens."""
    return divisors(batch, at_most=max(1, MICRO_BATCH_TOKENS // context))[-1]
