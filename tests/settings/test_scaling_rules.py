"""model.size → shape, learning rate, batch and steps; and which layer wins."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.config import read_overrides
from fledge.core.errors import UserError
from fledge.model.config import ModelConfig
from fledge.model.flops import parameter_count
from fledge.settings import scaling_rules
from fledge.settings.pipeline import resolve
from fledge.training.config import Settings

TIED = ModelConfig(tied=True)
sizes = st.integers(10**6, 10**9)


def whole(settings: Settings) -> ModelConfig:
    return replace(settings.model, vocab_size=settings.tokenizer.vocab_size)


@given(sizes)
def test_model_has_about_the_requested_size(size: int) -> None:
    model = scaling_rules.nearest_model(size, TIED, None)
    assert abs(parameter_count(model) / size - 1) <= 0.15


@given(sizes, st.sampled_from([None, 65, 256, 1024]))
def test_heads_are_64_wide_and_share_keys_evenly(size: int, vocab_size: int | None) -> None:
    model = scaling_rules.nearest_model(size, TIED, vocab_size)
    assert model.n_embd == 64 * model.n_head == model.head_width * model.n_head
    assert model.mlp_hidden_width % 64 == 0
    assert model.n_head in (model.kv_heads, 4 * model.kv_heads)


@given(sizes, sizes, st.sampled_from([None, 65, 1024]), st.sampled_from(["swiglu", "gelu"]))
def test_every_setting_grows_with_the_size(one: int, other: int, vocab_size: int | None, mlp: str) -> None:
    kinds = replace(TIED, mlp=mlp)  # type: ignore[arg-type]
    small, large = (scaling_rules.nearest_model(size, kinds, vocab_size) for size in sorted((one, other)))
    assert parameter_count(small) <= parameter_count(large)
    assert (small.n_embd, small.n_layer) <= (large.n_embd, large.n_layer)
    assert scaling_rules.learning_rates(small)["lr"] >= scaling_rules.learning_rates(large)["lr"]
    assert scaling_rules.batch_and_steps(small)["batch"] <= scaling_rules.batch_and_steps(large)["batch"]


@given(sizes, st.sampled_from([64, 200, 1024, 2048]))
def test_training_is_twenty_tokens_per_parameter(size: int, context: int) -> None:
    model = scaling_rules.nearest_model(size, replace(TIED, context=context), None)
    found = scaling_rules.batch_and_steps(model)
    tokens = found["steps"] * found["batch"] * context
    assert tokens == pytest.approx(20 * parameter_count(model), rel=0.02)
    assert found["warmup_steps"] < found["steps"]


@given(st.integers(1, 3000), st.integers(1, 40_000))
def test_micro_batch_divides_the_batch_and_is_small(batch: int, context: int) -> None:
    part = scaling_rules.micro_batch_for(batch, context)
    assert batch % part == 0
    assert part == 1 or part * context <= scaling_rules.MICRO_BATCH_TOKENS


@pytest.mark.parametrize("preset", ["modern-5m", "modern-30m", "modern-125m", "modern-350m"])
def test_modern_presets_are_near_the_scaling_rules(preset: str) -> None:
    known, found = (
        whole(resolve(preset)),
        whole(resolve("modern", read_overrides(["--model.size", preset.partition("-")[2]]))),
    )
    assert (found.n_embd, found.vocab_size) == (known.n_embd, known.vocab_size)
    assert abs(found.n_layer - known.n_layer) <= 1
    assert found.mlp_hidden_width == pytest.approx(known.mlp_hidden_width, rel=0.12)
    assert resolve(preset).optim.lr == pytest.approx(scaling_rules.learning_rates(found)["lr"], rel=0.4)


@pytest.mark.parametrize(
    ("text", "size"), [("30M", 30e6), ("1.5b", 1.5e9), ("250k", 250e3), ("1_000_000", 1e6), (7, 7)]
)
def test_sizes_with_suffixes_are_parsed(text: object, size: float) -> None:
    assert scaling_rules.read_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-30M", "30X", "3e7", "nan", True, [], "1.M"])
def test_invalid_size_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(UserError, match=r"model\.size") as refusal:
        scaling_rules.read_size(text)
    assert "30M" in refusal.value.hint


@pytest.mark.parametrize("size", ["0", "10", "100B"])
def test_unreachable_size_suggests_the_nearest(size: str) -> None:
    with pytest.raises(UserError, match="parameters") as refusal:
        resolve("modern", read_overrides(["--model.size", size]))
    resolve("modern", read_overrides(["--model.size", refusal.value.hint.split()[-1]]))


@pytest.mark.parametrize("word", ["--model.siz", "--model.sise", "--modl.size"])
def test_misspelt_model_size_suggests_the_name(word: str) -> None:
    with pytest.raises(UserError) as refusal:
        resolve("demo", read_overrides([word, "30M"]))
    assert refusal.value.hint == "did you mean 'model.size'?"


def test_vocabulary_too_large_for_the_size_is_refused() -> None:
    with pytest.raises(UserError, match="50,257"):
        resolve("gpt2", read_overrides(["--model.size", "1M"]))


def test_settings_beside_the_size_win() -> None:
    found = resolve(
        "modern",
        read_overrides(["--model.size", "30M", "--model.n_layer", "6", "--train.batch", "24", "--optim.lr=1e-3"]),
    )
    alone = resolve("modern", read_overrides(["--model.size", "30M"]))
    assert (found.model.n_layer, found.train.batch, found.optim.lr) == (6, 24, 1e-3)
    assert found.model.n_embd == alone.model.n_embd
    assert found.train.steps * 24 * 1024 == pytest.approx(20 * parameter_count(whole(found)), rel=0.01)
    assert 24 % (found.train.micro_batch or 0) == 0


def test_size_replaces_the_shape_of_lower_layers() -> None:
    found, alone = resolve("modern-5m", read_overrides(["--model.size", "30M"])), resolve("modern-5m")
    assert 25e6 < parameter_count(whole(found)) < 35e6
    assert found.train.steps != alone.train.steps
    assert (found.model.context, found.data, found.tokenizer) == (alone.model.context, alone.data, alone.tokenizer)


def test_file_may_set_the_size_of_its_base_preset(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[about]\npreset = "demo"\n[model]\nsize = 5_000_000\nn_head = 8\n')
    found = resolve(str(file))
    assert (found.model.n_head, found.data.corpus) == (8, "python")
    assert found.model.n_embd == resolve("demo", read_overrides(["--model.size", "5M"])).model.n_embd
    assert resolve(str(file), read_overrides(["--model.size", "30M"])) == resolve(
        "demo", read_overrides(["--model.size", "30M"])
    )


def test_size_replaces_epochs_of_lower_layers() -> None:
    assert resolve("smallgpt-shakespeare").train.epochs
    assert resolve("smallgpt-shakespeare", read_overrides(["--model.size", "30M"])).train.epochs is None
    assert (
        resolve("smallgpt-shakespeare", read_overrides(["--model.size", "30M", "--train.epochs", "2"])).train.epochs
        == 2
    )


def test_size_replaces_where_a_decay_ends() -> None:
    assert resolve("smollgpt-130m").optim.decay_steps
    assert resolve("smollgpt-130m", read_overrides(["--model.size", "30M"])).optim.decay_steps is None


def test_indivisible_batch_is_refused() -> None:
    with pytest.raises(UserError, match="micro_batch"):
        resolve("modern", read_overrides(["--model.size", "30M", "--train.batch", "10", "--train.micro_batch", "4"]))


def test_character_model_has_a_small_vocabulary() -> None:
    found = resolve("nanogpt-shakespeare-cpu", read_overrides(["--model.size", "1M"]))
    assert found.model.vocab_size is found.tokenizer.vocab_size is None
    assert parameter_count(replace(found.model, vocab_size=65)) == pytest.approx(1e6, rel=0.1)
