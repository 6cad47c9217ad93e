"""One dial: from a size, `model.size = "30M"`, everything that nobody should have to guess.

    size   →  blocks, width, heads, MLP, vocabulary     the rung of a ladder that has about so many parameters
    model  →  learning rate                             falls with the width
    model  →  batch and steps                           20 tokens for each parameter, the batch growing with them

The size counts every trained number, the tables of the vocabulary too: that is how models are called. Pure numbers from
pure numbers. Who wins where something is set besides, is decided in settings.py.
"""

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

from fledge.core.config import divisors
from fledge.core.errors import UserError
from fledge.model.config import ModelConfig
from fledge.model.flops import parameters, training_flops

# What follows from a size. Lower layers have no say in these once a higher one names a size.
FOLLOWS = {
    "model": ("size", "n_layer", "n_head", "n_kv_head", "n_embd", "head_dim", "mlp_width"),
    "optim": ("lr", "min_lr", "warmup_steps"),
    "train": ("steps", "epochs", "batch", "micro_batch"),
}

HEAD = 64  # width of a head: fast kernels and the usual quantised files like it
# From small to large in steps that nearly keep their ratio, so that heads still divide into groups.
WIDTHS = (64, 128, 192, 256, 320, 384, 512, 640, 768, 1024, 1280, 1536, 1792, 2048, 2560, 3072, 4096)
SHARING = 768  # from this width on four queries share a key: a cache of a quarter, for a loss that is hardly worse
NEAR = 0.25  # a rung further away than this share is not what was asked for; from 1M to 1B all are within 0.15
SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}

TOKENS_A_PARAMETER = 20  # where compute is spent best: Hoffmann et al., "Chinchilla", 2022
AT_ONCE = 16_384  # tokens of a micro-batch: enough to keep a device busy
SMALLEST_VOCABULARY, LARGEST_VOCABULARY = 1024, 32_768


def read_size(text: object) -> int:
    """'30M' → 30,000,000"""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmb]?)", str(text).strip().replace("_", "").lower())
    if not found:
        raise UserError(f"model.size cannot be {text!r}", "it takes a count of parameters, such as 30M or 1.5B")
    return round(float(found[1]) * SUFFIXES[found[2]])


def depth(width: int) -> float:
    """Blocks that suit a width: 0.7 √width lies between the modern-* presets, whose shapes were chosen one by one."""
    return 0.7 * math.sqrt(width)


def vocabulary(width: int) -> int:
    """A power of two whose table is about a fifth of the model: as blocks grow with width^2.5, it grows with 1.5."""
    power = round(math.log2(1.6 * width**1.5))
    return min(LARGEST_VOCABULARY, max(SMALLEST_VOCABULARY, 2**power))


def shape(width: int, n_layer: int, mlp: str) -> dict[str, int]:
    """A rung, in the words of [model]."""
    hidden = -(-8 * width // (3 * 64)) * 64 if mlp == "swiglu" else 4 * width
    sharing = {"n_kv_head": width // HEAD // 4} if width >= SHARING else {}
    return {
        "n_layer": n_layer,
        "n_head": width // HEAD,
        **sharing,
        "n_embd": width,
        "head_dim": HEAD,
        "mlp_width": hidden,
    }


def rungs() -> Iterator[tuple[int, int]]:
    """(width, blocks). A width is left for the next where both are equally far from the depth that suits them."""
    lowest = depth(WIDTHS[0]) / 2
    for width, wider in itertools.pairwise(WIDTHS):
        highest = math.sqrt(depth(width) * depth(wider)) * wider / width
        yield from ((width, blocks) for blocks in range(math.ceil(lowest), math.floor(highest) + 1))
        lowest = highest * (width / wider) ** 2  # as many numbers in fewer, wider blocks


@cache
def ladder(kinds: ModelConfig, vocab_size: int | None) -> list[tuple[int, ModelConfig]]:
    """(parameters, model) of each rung, smallest first; `kinds` says of which parts they are made.

    A narrow model that is no smaller than a wider one is left out, so whatever grows here grows everywhere.
    """
    kept: list[tuple[int, ModelConfig]] = []
    for width, blocks in reversed(list(rungs())):
        vocab = vocab_size or vocabulary(width)
        model = replace(kinds, **shape(width, blocks, kinds.mlp), vocab_size=vocab)  # type: ignore[arg-type]
        count = parameters(model)
        if not kept or count < kept[-1][0]:
            kept.append((count, model))
    return kept[::-1]


def nearest_rung(size: int, kinds: ModelConfig, vocab_size: int | None) -> ModelConfig:
    count, model = min(ladder(kinds, vocab_size), key=lambda rung: abs(rung[0] - size))
    if abs(count - size) > NEAR * size:
        words = f" with a vocabulary of {vocab_size:,}" if vocab_size else ""
        raise UserError(f"no model has about {size:,} parameters{words}", f"the nearest: --model.size {count}")
    return model


def rates(model: ModelConfig) -> dict[str, Any]:
    """The peak falls as one over the width, as AdamW's updates of a matrix have to (Yang et al., "μTransfer", 2022).

    The constant is that of the modern-* presets: 3e-3 at a width of 192. Nothing above 4e-3 was tried.
    """
    return {"lr": float(f"{min(4e-3, 0.576 / model.n_embd):.2g}"), "min_lr": 0.0}


def horizon(model: ModelConfig, batch: int | None = None, steps: int | None = None) -> dict[str, int]:
    """How long and in what portions, for a model that is known; `batch` and `steps` where those are given."""
    tokens = TOKENS_A_PARAMETER * parameters(model)
    batch = batch or batch_for(tokens, model)
    steps = steps or max(1, round(tokens / (batch * model.context)))
    return {
        "batch": batch,
        "micro_batch": micro_batch_for(batch, model.context),
        "steps": steps,
        "warmup_steps": min(500, steps // 20),
    }


def batch_for(tokens: float, model: ModelConfig) -> int:
    """Sequences of an update, a power of two: the more operations the whole training takes, the more tokens it pays to
    gather, by the law that DeepSeek LLM (2024) fitted from 1e17 operations on.

    It serves far below, too: for 165 thousand parameters and 2.7 million characters it says 32 sequences of 128. These
    reached 1.74 in 71 s; 64 sequences 1.86 in 67 s, 16 sequences 1.72 in 90 s.
    """
    wanted = 0.292 * (tokens * training_flops(model)) ** 0.327
    return int(2 ** max(0, round(math.log2(wanted / model.context))))


def micro_batch_for(batch: int, context: int) -> int:
    """The most sequences that divide a batch and are no more than a device should hold at once."""
    return divisors(batch, most=max(1, AT_ONCE // context))[-1]
