"""The recipe for a given time: larger shapes for more tokens, and settings that are valid for every preset."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.config import Layer, read_overrides, to_layer
from fledge.model.flops import parameter_count
from fledge.planning.loss_forecast import recipe_name
from fledge.planning.recipe import (
    MANY_PASSES,
    MAX_PASSES,
    MAX_PASSES_WITH_BIGRAMS,
    SHAPES,
    Shape,
    learns_more,
    model_of,
    most_steps,
    recipe_layer,
    shapes_for,
    useful_tokens,
    vocabulary_for,
)
from fledge.settings.layers import read_preset
from fledge.settings.pipeline import resolve, validated
from fledge.training.config import Settings


def test_shapes_grow() -> None:
    style = replace(resolve("text").model, vocab_size=4096)
    counts = [parameter_count(model_of(shape, style)) for shape in SHAPES]
    assert counts == sorted(counts)


@pytest.mark.parametrize("preset", ["text", "demo", "modern", "gpt2", "sprint-shakespeare", "smol-gpt-22m"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_layer_is_valid_for_every_shape(preset: str, shape: Shape) -> None:
    base, (layer, _) = resolve(preset), read_preset(preset)
    settings = validated(layer, recipe_layer(shape, base, 123))
    assert (settings.model.n_embd, settings.train.steps) == (shape.n_embd, 123)
    assert settings.model.mlp == base.model.mlp
    assert settings.model.bigram_rows == base.model.bigram_rows


def sized(number: int, layer: Layer, *words: str, passes: float = 0.0) -> Settings:
    """With a shape that may have what these words set."""
    overrides = read_overrides(list(words))
    base = validated(layer, overrides)
    return validated(layer, recipe_layer(shapes_for(base, overrides)[number], base, 123, passes), overrides)


@pytest.mark.parametrize("number", range(len(SHAPES)))
def test_short_contexts_of_training_are_extended_by_a_window(number: int) -> None:
    settings, shape = sized(number, read_preset("text")[0]), SHAPES[number]
    assert settings.model.context == max(512, shape.context)
    assert settings.train_context == shape.context
    assert settings.model.window == settings.train.context == (shape.context if shape.context < 512 else None)
    assert settings.step_tokens == shape.step_tokens
    assert recipe_name(settings) == "text"  # so its loss can be forecast
    again = sized(0, to_layer(settings))  # from the config.toml of such a run
    assert (again.model.context, again.model.window, again.train.context) == (512, 64, 64)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("--model.bigram_rows", "null"), (128, None, None)),  # other programs know it, and they have no window
        (("--model.context", "64"), (64, None, None)),
        (("--model.context", "256"), (256, None, None)),
        (("--model.window", "32"), (128, 32, None)),
        (("--model.window", "null"), (128, None, None)),
        (("--train.context", "null"), (128, None, None)),
        (("--model.positions", "learned"), (128, None, None)),
        (("--train.context", "64", "--model.window", "64"), (64, 64, 64)),
        (("--train.context", "64", "--model.window", "64", "--model.context", "300"), (300, 64, 64)),
    ],
)
def test_given_contexts_are_not_extended(words: tuple[str, ...], found: tuple[int, int | None, int | None]) -> None:
    settings = sized(3, read_preset("text")[0], *words)
    assert (settings.model.context, settings.model.window, settings.train.context) == found


def test_portable_model_from_the_settings_of_an_extended_run_has_no_window() -> None:
    settings = sized(3, to_layer(sized(2, read_preset("text")[0])), "--model.bigram_rows", "null")
    assert (settings.model.context, settings.model.window, settings.train.context) == (128, None, None)


@given(st.integers(0, 10**13), st.integers(0, 10**13))
def test_more_text_never_has_a_smaller_vocabulary(one: int, other: int) -> None:
    less, more = sorted((one, other))
    assert 320 <= vocabulary_for(less) <= vocabulary_for(more) <= 16_384


def test_three_minutes_on_two_cores_are_enough_for_the_preset_text() -> None:
    settings = resolve("text")
    tokens = settings.train.steps * settings.train.batch * settings.model.context
    shape = next(each for each in SHAPES if (each.n_layer, each.n_embd, each.context) == (2, 128, 128))
    assert (settings.model.n_layer, settings.model.n_embd, settings.model.context) == (2, 128, 128)
    assert shape.tokens <= tokens < 2 * shape.tokens


@given(st.sampled_from(SHAPES[1:]), st.floats(0.3, 100), st.floats(1.01, 10))
def test_in_the_same_time_the_larger_shape_is_better_from_the_tokens_on_that_it_needs(
    larger: Shape, share: float, slowdown: float
) -> None:
    tokens = share * larger.tokens
    assert learns_more(larger, tokens, slowdown * tokens, slowdown) == (share >= 1) or share == pytest.approx(1)


@given(st.sampled_from(SHAPES[1:]), st.floats(0.3, 1), st.floats(1.2, 3))
def test_fewer_tokens_are_enough_where_the_text_is_short_for_the_smaller_shape(
    larger: Shape, share: float, slowdown: float
) -> None:
    tokens = share * larger.tokens
    found = [learns_more(larger, tokens, slowdown * tokens / passes, slowdown) for passes in (1.0, 1.2, 1.5, 2.0)]
    assert found == sorted(found)
    assert found[-1]
    assert not learns_more(larger, 0.29 * larger.tokens, 1.0, slowdown)


def test_later_passes_teach_little() -> None:
    settings = resolve("text")
    plain = replace(settings, model=replace(settings.model, bigram_rows=None))
    for each in (settings, plain):
        assert useful_tokens(2e6, each, 1_000_000) == pytest.approx(1.23e6, rel=0.01)
        assert useful_tokens(9e6, each, 1_000_000) == useful_tokens(8e6, each, 1_000_000) < 2e6
        assert useful_tokens(5e5, each, 1_000_000) == useful_tokens(5e5, each, 0) == 5e5
    assert useful_tokens(2.9e6, settings, 1_000_000) == useful_tokens(2e6, settings, 1_000_000)  # it makes no more
    assert useful_tokens(2.9e6, plain, 1_000_000) > useful_tokens(2e6, plain, 1_000_000)


def test_passes_over_a_small_text_are_limited() -> None:
    settings = resolve("text")  # 4,096 tokens a step
    assert most_steps(settings, 409_600) == pytest.approx(100 * MAX_PASSES_WITH_BIGRAMS)  # a table of bigrams memorizes
    assert most_steps(settings, 10) == 1
    assert most_steps(settings, 0) == math.inf
    plain = replace(settings, model=replace(settings.model, bigram_rows=None))
    dropped = replace(settings, model=replace(settings.model, dropout=0.1))
    assert most_steps(plain, 409_600) == most_steps(dropped, 409_600) == pytest.approx(100 * MAX_PASSES)
    assert most_steps(plain, 409_600, own_shape=True) == math.inf
    assert most_steps(settings, 409_600, own_shape=True) == pytest.approx(100 * MAX_PASSES_WITH_BIGRAMS)


@pytest.mark.parametrize("preset", ["text", "modern", "smol-gpt-22m"])
def test_many_passes_have_dropout_and_no_bigram_table(preset: str) -> None:
    base, (layer, _) = resolve(preset), read_preset(preset)
    few, many, unknown = (
        validated(layer, recipe_layer(SHAPES[3], base, 100, passes)).model
        for passes in (MANY_PASSES, MANY_PASSES + 0.01, 0.0)
    )
    assert few == unknown
    assert (few.dropout, few.bigram_rows) == (base.model.dropout, base.model.bigram_rows)
    assert (many.dropout, many.bigram_rows) == (base.model.dropout or 0.1, None)
    without_table = sized(3, layer, passes=MANY_PASSES + 0.01)
    assert (without_table.model.window, without_table.train.context) == (base.model.window, None)
