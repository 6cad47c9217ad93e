"""Vocabulary and shape that suit a text: which text, how many tokens (corpus_stats.py) → the choice of recipe.py."""

from fledge.core.config import Layer, merge
from fledge.core.files import human_bytes
from fledge.core.progress import notice
from fledge.datasets.cache import is_prepared
from fledge.datasets.config import DataConfig
from fledge.planning.budget import sets_shape
from fledge.planning.corpus_stats import bytes_per_character, text_bytes, typical_token_bytes
from fledge.planning.recipe import Shape, recipe_layer, shapes_for, useful_tokens, vocabulary_for
from fledge.settings.layers import merge_layers
from fledge.settings.pipeline import validated
from fledge.text.sources import split_weight
from fledge.training.config import Settings

# A run of a minute uses 120 MB of text at most. Encoding that takes seconds; training visits no more, even on a GPU.
LEAST_READ_BYTES, READ_BYTES_PER_SECOND = 64e6, 2e6
# Training a tokenizer takes a second for 3 MB; a short run trains it on so many MB.
SHORT_RUN_SECONDS, SHORT_LEARN_FROM = 1800.0, 16


def sized_for_time(layer: Layer, overrides: Layer, seconds: float) -> Layer:
    """These overrides, with the vocabulary that suits the text, and only as much of a local text as can be prepared in
    a run of so many seconds; all of it, where it is prepared already."""
    settings = validated(layer, overrides)
    data, size = settings.data, text_bytes(settings)
    per_character = bytes_per_character(data)
    whole = with_vocabulary(layer, overrides, size / per_character)
    if data.path is not None or is_prepared(data, validated(layer, whole).tokenizer):
        return whole
    most = int(max(LEAST_READ_BYTES, READ_BYTES_PER_SECOND * seconds))
    if size > most and not data.shares:
        overrides, size = with_sample_of_text(data, overrides, size, most), most
    sized = with_vocabulary(layer, overrides, size / per_character)
    return with_short_tokenizer_training(layer, sized, size) if seconds <= SHORT_RUN_SECONDS else sized


def with_sample_of_text(data: DataConfig, overrides: Layer, size: int, most: int) -> Layer:
    """With `most` of the `size` bytes of the text, from all over it."""
    notice(
        f"the text has {human_bytes(size)}, of which {human_bytes(most)} are used, from all over it, as preparing more"
        " would take too much of the time (for all of it: fledge prepare, then train on that)"
    )
    share = most / size
    weighted = [f"{source}:{share * weight:.6f}" for source, weight in map(split_weight, data.sources)]
    return merge(overrides, {"data": {"corpus": weighted}})


def with_short_tokenizer_training(layer: Layer, overrides: Layer, size: int) -> Layer:
    """With fewer MB of a text of `size` bytes for the tokenizer, if one is trained."""
    tokenizer, given = validated(layer, overrides).tokenizer, "learn_from" in overrides.get("tokenizer", {})
    is_long = min(size / 1e6, tokenizer.learn_from) > SHORT_LEARN_FROM
    if tokenizer.kind != "bpe" or tokenizer.file or given or not is_long:
        return overrides
    return merge(overrides, {"tokenizer": {"learn_from": SHORT_LEARN_FROM}})


def with_vocabulary(layer: Layer, overrides: Layer, characters: float) -> Layer:
    """With the vocabulary that suits a text of so many characters (0: unknown), if BPE is trained and no size given."""
    settings, given = validated(layer, overrides), overrides.get("tokenizer", {}).get("vocab_size")
    tokenizer = settings.tokenizer
    if tokenizer.kind != "bpe" or tokenizer.file or given or settings.data.path is not None or not characters:
        return overrides
    return merge({"tokenizer": {"vocab_size": vocabulary_for(characters)}}, overrides)


def sized_for_steps(layer: Layer, overrides: Layer) -> Layer:
    """These overrides, with the vocabulary and the shape that suit the text and the given steps or epochs."""
    settings = validated(layer, overrides)
    size = text_bytes(settings)
    overrides = with_vocabulary(layer, overrides, size / bytes_per_character(settings.data))
    base = validated(layer, overrides)
    train_tokens = int(size / typical_token_bytes(base, base.tokenizer.size))
    if sets_shape(overrides) or not train_tokens:
        return overrides

    def passes(shape: Shape) -> float:
        if base.train.epochs is not None:
            return base.train.epochs
        return base.train.steps * sized(shape, 0.0).step_tokens / train_tokens

    def sized(shape: Shape, passes: float) -> Settings:
        return validated(layer, merge_layers(recipe_layer(shape, base, base.train.steps, passes), overrides))

    def has_enough_tokens(shape: Shape) -> bool:
        found = passes(shape)
        return useful_tokens(found * train_tokens, sized(shape, found), train_tokens) >= shape.tokens

    shapes = shapes_for(base, overrides)
    shape = next(filter(has_enough_tokens, reversed(shapes)), shapes[0])
    return merge_layers(recipe_layer(shape, base, base.train.steps, passes(shape)), overrides)
