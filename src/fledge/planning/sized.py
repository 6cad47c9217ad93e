"""Vocabulary and shape that suit a text: which text, how many tokens (corpus_stats.py) → the choice of recipe.py."""

from fledge.core.config import Layer, merge
from fledge.core.files import human_bytes
from fledge.core.progress import notice
from fledge.datasets.cache import is_prepared
from fledge.planning.budget import sets_shape
from fledge.planning.corpus_stats import text_bytes, typical_token_bytes
from fledge.planning.recipe import SHAPES, Shape, has_enough_tokens, recipe_layer, vocabulary_for
from fledge.settings.layers import merge_layers
from fledge.settings.pipeline import validated
from fledge.text.sources import split_weight

# A run of a minute uses 300 MB of text at most. Preparing that takes a few seconds; training visits far less.
LEAST_READ_BYTES, READ_BYTES_PER_SECOND = 64e6, 5e6


def with_affordable_text(layer: Layer, overrides: Layer, seconds: float) -> Layer:
    """These overrides, with a sample of a local text that is too large to be prepared in a run of so many seconds."""
    settings = validated(layer, overrides)
    data, size = settings.data, text_bytes(settings)
    most = max(LEAST_READ_BYTES, READ_BYTES_PER_SECOND * seconds)
    if size <= most or data.path is not None or data.shares:
        return overrides
    if is_prepared(data, validated(layer, with_vocabulary(layer, overrides)).tokenizer):
        return overrides
    share = most / size
    notice(
        f"the text has {human_bytes(size)}, of which {human_bytes(most)} are used, from all over it, as preparing more"
        " would take too much of the time (for all of it: fledge prepare, then train on that)"
    )
    weighted = [f"{source}:{share * weight:.6f}" for source, weight in map(split_weight, data.sources)]
    return merge(overrides, {"data": {"corpus": weighted}})


def with_vocabulary(layer: Layer, overrides: Layer) -> Layer:
    """These overrides, with the vocabulary that suits the text, if BPE is trained on it and no size is given."""
    settings, given = validated(layer, overrides), overrides.get("tokenizer", {}).get("vocab_size")
    tokenizer, size = settings.tokenizer, text_bytes(settings)
    if tokenizer.kind != "bpe" or tokenizer.file or given or settings.data.path is not None or not size:
        return overrides
    return merge({"tokenizer": {"vocab_size": vocabulary_for(size)}}, overrides)


def sized_for_steps(layer: Layer, overrides: Layer) -> Layer:
    """These overrides, with the vocabulary and the shape that suit the text and the given steps or epochs."""
    overrides = with_vocabulary(layer, overrides)
    base = validated(layer, overrides)
    train_tokens = int(text_bytes(base) / typical_token_bytes(base, base.tokenizer.size))
    if sets_shape(overrides) or not train_tokens:
        return overrides

    def tokens(shape: Shape) -> float:
        if base.train.epochs is not None:
            return base.train.epochs * train_tokens
        sized = validated(layer, merge_layers(recipe_layer(shape, base, base.train.steps), overrides))
        return sized.train.steps * sized.step_tokens

    enough = (shape for shape in reversed(SHAPES) if has_enough_tokens(shape, tokens(shape), train_tokens))
    shape = next(enough, SHAPES[0])
    return merge_layers(recipe_layer(shape, base, base.train.steps, tokens(shape) / train_tokens), overrides)
