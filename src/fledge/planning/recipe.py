"""Which model to train on a text in a given time: all of it stands here, so that it can be replaced in one place.

    characters of text                →  size of the vocabulary
    time × measured speed = tokens    →  the shape that learns most from them
    shape                             →  contexts, batch, learning rates, warmup, steps on n-gram counts
    tokens of the text                →  the most steps, as more passes would only memorize it;
                                         for many passes dropout, and no table of bigrams

docs/log.md has the runs that the first rows of SHAPES follow from; larger rows follow usual shapes.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from fledge.core.config import Layer, merge
from fledge.model.config import ModelConfig
from fledge.settings.scaling_rules import GQA_WIDTH, HEAD_WIDTH, learning_rates, micro_batch_for
from fledge.training.config import Settings


@dataclass(frozen=True)
class Shape:
    n_layer: int
    n_embd: int
    context: int  # of training
    batch: int
    tokens: float = 0  # that it needs: with fewer, the next smaller shape is better in the same time
    extended: bool = False  # the context of the model is LEAST_CONTEXT, with a window as long as that of training

    @property
    def step_tokens(self) -> int:
        return self.batch * self.context


# 1 × 128 and 2 × 128 by measurements (docs/log.md): one block is better after 1.2M tokens and worse after 2.1M. At 85M
# parameters 6 tokens each, where the fastest known recipes for GPT-2's size are; 3 at 2M.
SHAPES = (  # smallest first
    Shape(2, 64, 64, 16),
    Shape(2, 64, 128, 32, 1e5),
    Shape(1, 128, 128, 32, 3.5e5),
    Shape(2, 128, 128, 32, 1.5e6),
    Shape(2, 192, 128, 32, 3e6),
    Shape(3, 256, 128, 32, 6e6),
    Shape(4, 320, 128, 64, 1.5e7),
    Shape(5, 384, 256, 32, 3.1e7),
    Shape(6, 512, 256, 64, 8e7),
    Shape(8, 640, 512, 64, 2e8),
    Shape(12, 768, 1024, 64, 5.3e8),
    Shape(16, 1024, 1024, 128, 1.5e9),
    Shape(24, 1536, 1024, 256, 7e9),
    Shape(24, 2048, 2048, 256, 1.4e10),
)
VOCABULARIES = (
    (20_000, 320),
    (100_000, 512),
    (400_000, 1024),
    (2_000_000, 2048),
    (6_000_000, 3072),
    (7_500_000, 4096),
    (1 << 30, 8192),
)  # up to so many characters of text. 9 MB of Russian are 5.3 million: 1.136 with 8,192 tokens, 1.13 with 3,072
MAX_VOCABULARY = 16_384
LATER_PASSES = 0.3  # n passes over a text teach as much as n to this power texts
# How the worth of a larger shape grows with its tokens, where that of more tokens is 1 (logarithms of both). From the
# sweep in docs/recipe.csv 0.20, from commands of four minutes 0.26, 0.27 and 0.41.
GROWTH = 0.27
LEAST_SHARE = 0.3  # of the tokens that a shape needs: it was never tried with fewer
# A table of bigrams memorizes a text, that of frequent pairs from the third pass on. In bits per byte, 9 MB of books,
# 3 × 256: one pass 1.527, two 1.500; 2 × 192: 1.3 passes about 1.54, three 1.548. Tiny Shakespeare, 313,000 tokens:
# 1.8 passes with hashed pairs 2.187 and without a table 2.161, 4 passes 2.111, 8 with dropout 2.093.
MAX_PASSES_WITH_BIGRAMS, MAX_PASSES_WITH_HASHED_BIGRAMS, MAX_PASSES = 2.0, 1.1, 8.0
MANY_PASSES, DROPOUT = 2.0, 0.1  # more passes than that have no table, and this dropout
BETTER_WITHOUT_BIGRAMS = 3.0  # passes that are possible in a given time: fewer are not as good as one with the table
# A model that is trained on shorter sequences has a context of at least so many tokens, and a window as long as these
# sequences, so that it meets no distance that it has not learned. It then seldom begins anew: 0.005 bits per byte
# fewer on books and on Russian, for nothing. Training on the longer sequences themselves gains less or harms, as a
# batch then has fewer places of the text.
LEAST_CONTEXT = 512
FULL_RATE_WIDTH = 256  # wider models need a smaller head_lr
# Steps on n-gram counts: so many for each NGRAM_TOKENS tokens that the run trains on, up to MAX_NGRAM_STEPS.
NGRAM_SHARE, NGRAM_TOKENS, MAX_NGRAM_STEPS = 0.6, 4096, 64
WARMUP_SHARE, MAX_WARMUP = 0.05, 500


def vocabulary_for(characters: float) -> int:
    """The size of a BPE vocabulary for a text: each token must occur often enough to be learned."""
    return next((size for limit, size in VOCABULARIES if characters <= limit), MAX_VOCABULARY)


def model_of(shape: Shape, style: ModelConfig) -> ModelConfig:
    """The model of this shape with the parts of `style`."""
    heads = shape.n_embd // HEAD_WIDTH
    kv_heads = heads // 4 if style.n_kv_head and shape.n_embd >= GQA_WIDTH else None
    values: dict[str, Any] = {"n_layer": shape.n_layer, "n_embd": shape.n_embd, "n_head": heads}
    window, context = style.window and min(style.window, shape.context), shape.context
    if shape.extended:
        window, context = shape.context, LEAST_CONTEXT
    return replace(style, **values, n_kv_head=kv_heads, head_dim=None, mlp_width=None, window=window, context=context)


def shapes_for(base: Settings, overrides: Layer) -> list[Shape]:
    """The shapes, smallest first, with the batch or the context of these overrides.

    Where these set no context and no window, short contexts of training are extended: not without a table of bigrams,
    as other programs know such a model, and they have no window.
    """

    def sets(*names: str) -> bool:
        return any(key in overrides.get(section, {}) for section, key in (name.split(".") for name in names))

    given: dict[str, Any] = {"batch": base.train.batch} if sets("train.batch") else {}
    if sets("model.context", "train.context"):
        given["context"] = base.train_context
    own_window = base.model.window and not base.train.context
    extends = bool(base.model.bigram_rows) and base.model.positions == "rotary" and not own_window
    extends = extends and not sets("model.context", "model.window", "train.context")
    return [replace(shape, **given, extended=extends and shape.context < LEAST_CONTEXT) for shape in SHAPES]


def most_steps(settings: Settings, train_tokens: int, own_shape: bool = False) -> float:
    """The number of steps after which a model only memorizes the text; infinite where it is not known.

    own_shape: it is the user's, so only a table of bigrams limits it.
    """
    passes = max_passes_with_bigrams(settings) if memorizes(settings) else math.inf if own_shape else MAX_PASSES
    return steps_of(passes, settings, train_tokens)


def useful_tokens(tokens: float, settings: Settings, train_tokens: int) -> float:
    """So many new tokens would teach as much as these tokens of a run, which passes over its text several times."""
    if not tokens > train_tokens > 0:
        return tokens
    passes = tokens / train_tokens
    keeps_table = memorizes(settings) and passes <= BETTER_WITHOUT_BIGRAMS
    return train_tokens * min(passes, max_passes_with_bigrams(settings) if keeps_table else MAX_PASSES) ** LATER_PASSES


def learns_more(larger: Shape, tokens: float, smaller_tokens: float, slowdown: float) -> bool:
    """Whether a shape learns more from so many useful tokens than the next smaller one from `smaller_tokens`.

    slowdown: its time for a token, over that of the smaller one. If all tokens are useful, it must have those that it
    needs. If the smaller one gets too many for the text, fewer are enough.
    """
    if tokens < LEAST_SHARE * larger.tokens:
        return False
    return math.log(slowdown * tokens / smaller_tokens) + GROWTH * math.log(tokens / larger.tokens) >= 0


def max_passes_with_bigrams(settings: Settings) -> float:
    hashed = settings.model.bigram_pairs == "hashed"
    return MAX_PASSES_WITH_HASHED_BIGRAMS if hashed else MAX_PASSES_WITH_BIGRAMS


def memorizes(settings: Settings) -> bool:
    return bool(settings.model.bigram_rows) and not settings.model.dropout


def steps_of(passes: float, settings: Settings, train_tokens: int) -> float:
    return max(1.0, passes * train_tokens / settings.step_tokens) if train_tokens else math.inf


def recipe_layer(shape: Shape, base: Settings, steps: int, passes: float = 0.0) -> Layer:
    """The settings that follow from the shape, the steps, and the passes over the text (0: unknown); all others are
    those of the preset."""
    many = passes > MANY_PASSES
    shape = replace(shape, extended=shape.extended and not many)
    extended_before = base.train.context is not None  # of a saved run
    model = model_of(shape, replace(base.model, window=None) if extended_before else base.model)
    sizes: dict[str, Any] = {key: getattr(model, key) for key in ("n_layer", "n_embd", "n_head", "context")}
    # What the preset leaves to follow from the width still does.
    derived: dict[str, int | None] = {"n_kv_head": model.kv_heads, "head_dim": model.head_width, "window": model.window}
    derived["mlp_width"] = model.mlp_hidden_width
    sizes |= {key: value for key, value in derived.items() if getattr(base.model, key) is not None}
    if many:
        sizes |= {"bigram_rows": None, "dropout": base.model.dropout or DROPOUT}
    train: dict[str, Any] = {"batch": shape.batch, "steps": steps}
    if shape.extended:
        sizes["window"] = train["context"] = shape.context
    elif extended_before:
        train["context"] = None
    if base.train.micro_batch is not None:
        train["micro_batch"] = micro_batch_for(shape.batch, shape.context)
    if base.train.ngram_steps:
        train["ngram_steps"] = ngram_steps(steps * shape.batch * shape.context)
    layer = {"model": sizes, "train": train}
    return merge(layer, {"optim": rates(model, base, steps)})


def ngram_steps(tokens: int) -> int:
    """Steps on n-gram counts for a run that trains on so many tokens."""
    return max(1, min(MAX_NGRAM_STEPS, round(NGRAM_SHARE * tokens / NGRAM_TOKENS)))


def rates(model: ModelConfig, base: Settings, steps: int) -> dict[str, Any]:
    """Muon with rates of its own for embedding and head (presets text, sprint-shakespeare): only the head's falls with
    the width, and no warmup is needed. Otherwise the rates of model.size."""
    if base.optim.head_lr is None:
        return learning_rates(model) | {"warmup_steps": min(MAX_WARMUP, round(WARMUP_SHARE * steps))}
    return {"head_lr": float(f"{base.optim.head_lr * min(1.0, FULL_RATE_WIDTH / model.n_embd):.2g}")}
