"""The settings of a run: what each section refuses, and how presets, files and overrides are merged."""

import math
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fledge.core.config import build, merge, read_overrides, to_layer, to_toml
from fledge.core.errors import UserError
from fledge.datasets.config import DataConfig
from fledge.model.config import ModelConfig
from fledge.optim.config import OptimConfig
from fledge.settings.layers import preset_files, read_preset, without_effect
from fledge.settings.pipeline import resolve, validated
from fledge.tokenizers.config import TokenizerConfig
from fledge.tracking.config import TrackConfig
from fledge.tracking.loggers import LOGGERS
from fledge.training.config import Settings, TrainConfig

NAN, INF = math.nan, math.inf

IMPOSSIBLE = [
    ("model", {"n_layer": 0}, "model.n_layer"),
    ("model", {"n_head": -1}, "model.n_head"),
    ("model", {"n_kv_head": 0}, "model.n_kv_head"),
    ("model", {"context": 0}, "model.context"),
    ("model", {"dropout": 1.0}, "model.dropout"),
    ("model", {"dropout": -0.1}, "model.dropout"),
    ("model", {"dropout": NAN}, "model.dropout"),
    ("model", {"n_embd": 100, "n_head": 6}, "model.n_embd = 100"),
    ("model", {"n_embd": 4, "n_head": 6}, "model.n_embd = 4"),
    ("model", {"n_head": 6, "n_kv_head": 4}, "model.n_kv_head = 4"),
    ("model", {"n_head": 2, "n_embd": 32, "n_kv_head": 4}, "model.n_kv_head = 4"),
    ("model", {"n_head": 2, "n_embd": 6}, "rotary"),
    ("model", {"head_dim": 5}, "rotary"),
    ("model", {"norm_bias": True}, "model.norm_bias"),
    ("model", {"window": 0}, "model.window"),
    ("model", {"window": 65, "context": 64}, "model.window"),
    ("model", {"softcap": 0.0}, "model.softcap"),
    ("model", {"norm_eps": NAN}, "model.norm_eps"),
    ("model", {"rotary_base": 0.5}, "model.rotary_base"),
    ("optim", {"lr": 5e-4, "min_lr": 6e-4}, "optim.min_lr = 0.0006"),
    ("optim", {"lr": 0.0}, "optim.lr"),
    ("optim", {"lr": -1e-3}, "optim.lr"),
    ("optim", {"lr": NAN}, "optim.lr"),
    ("optim", {"lr": INF}, "optim.lr"),
    ("optim", {"lr": 1e-3, "min_lr": 2e-3}, "optim.min_lr = 0.002"),
    ("optim", {"min_lr": -1e-9}, "optim.min_lr"),
    ("optim", {"min_lr": NAN}, "optim.min_lr"),
    ("optim", {"warmup_steps": -1}, "optim.warmup_steps"),
    ("optim", {"cooldown": 1.1}, "optim.cooldown"),
    ("optim", {"cooldown": NAN}, "optim.cooldown"),
    ("optim", {"weight_decay": -0.1}, "optim.weight_decay"),
    ("optim", {"weight_decay": NAN}, "optim.weight_decay"),
    ("optim", {"weight_decay": INF}, "optim.weight_decay"),
    ("optim", {"betas": [0.9, 1.0]}, "optim.betas"),
    ("optim", {"betas": [-0.1, 0.9]}, "optim.betas"),
    ("optim", {"eps": 0.0}, "optim.eps"),
    ("optim", {"eps": INF}, "optim.eps"),
    ("train", {"steps": 0}, "train.steps"),
    ("train", {"batch": 0}, "train.batch"),
    ("train", {"micro_batch": 0}, "train.micro_batch"),
    ("train", {"batch": 32, "micro_batch": 5}, "train.micro_batch = 5"),
    ("train", {"batch": 4, "micro_batch": 8}, "train.micro_batch = 8"),
    ("train", {"ngram_steps": -1}, "train.ngram_steps"),
    ("train", {"context": 0}, "train.context"),
    ("train", {"context": 1024}, "train.context"),
    ("train", {"seed": -1}, "train.seed"),
    ("train", {"seed": 2**63}, "train.seed"),
    ("train", {"epochs": 0.0}, "train.epochs"),
    ("train", {"epochs": NAN}, "train.epochs"),
    ("train", {"epochs": INF}, "train.epochs"),
    ("train", {"grad_clip": -1.0}, "train.grad_clip"),
    ("train", {"grad_clip": NAN}, "train.grad_clip"),
    ("train", {"eval_every": -1}, "train.eval_every"),
    ("train", {"sample_every": -1}, "train.sample_every"),
    ("train", {"log_every": 0}, "train.log_every"),
    ("train", {"save_every": 0}, "train.save_every"),
    ("train", {"keep_last": 0}, "train.keep_last"),
    ("data", {"val": 1.0}, "data.val"),
    ("data", {"val": -0.1}, "data.val"),
    ("data", {"val": 0.5, "test": 0.5}, "data.test"),
    ("data", {"test": NAN}, "data.test"),
    ("data", {"stride": 0}, "data.stride"),
    ("data", {"stride": 8, "order": "random"}, "data.stride"),
    ("data", {"order": "backwards"}, "data.order"),
    ("data", {"val_corpus": "a.txt", "val": 0.1}, "data.val_corpus"),
    ("data", {"test_corpus": "a.txt", "test": 0.1}, "data.test_corpus"),
    ("data", {"corpus": ["a", "b"], "shares": [0.5, 0.6]}, "data.shares"),
    ("data", {"corpus": ["a", "b"], "shares": "1,0"}, "data.shares"),
    ("data", {"corpus": ["a", "b"], "shares": [NAN, 0.5]}, "data.shares"),
    ("data", {"corpus": ["a", "b"], "shares": ""}, "data.shares"),
    ("data", {"corpus": ["a", "b"], "shares": "half"}, "data.shares"),
    ("data", {"corpus": ["a", "b"], "shares": [0.2, 0.3, 0.5]}, "data.shares"),
    ("tokenizer", {"vocab_size": 1}, "tokenizer.vocab_size"),
    ("tokenizer", {"vocab_size": 2**32 + 1}, "tokenizer.vocab_size"),
    ("track", {"sample_tokens": -1}, "track.sample_tokens"),
    ("track", {"temperature": -0.5}, "track.temperature"),
    ("track", {"temperature": NAN}, "track.temperature"),
]


@pytest.mark.parametrize(("section", "values", "named"), IMPOSSIBLE, ids=lambda case: str(case))
def test_impossible_value_is_refused_with_name_and_hint(section: str, values: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError) as caught:
        validated({section: values})
    assert named in caught.value.message
    assert caught.value.hint


EDGES = [
    ("model", {"dropout": 0.0}),
    ("model", {"n_head": 2, "n_embd": 6, "positions": "learned"}),
    ("model", {"n_embd": 100, "n_head": 6, "head_dim": 8}),
    ("model", {"n_head": 6, "n_kv_head": 1}),
    ("model", {"norm_bias": True, "norm": "layernorm"}),
    ("optim", {"lr": 1e-3, "min_lr": 1e-3}),
    ("optim", {"min_lr": 0.0, "warmup_steps": 0, "cooldown": 1.0, "weight_decay": 0.0, "betas": [0.0, 0.0]}),
    (
        "train",
        {"steps": 1, "batch": 1, "micro_batch": 1, "seed": 0, "grad_clip": 0.0, "eval_every": 0, "sample_every": 0},
    ),
    ("train", {"ngram_steps": 0}),
    ("train", {"context": 256}),
    ("train", {"seed": 2**63 - 1}),
    ("train", {"epochs": 0.001}),
    ("data", {"val": 0.0, "test": 0.0, "stride": 1}),
    ("data", {"corpus": ["a", "b", "c"], "shares": [0.1, 0.2, 0.7], "order": "random", "val_corpus": "d"}),
    ("tokenizer", {"vocab_size": 2}),
    ("track", {"temperature": 0.0, "sample_tokens": 0}),
]


@pytest.mark.parametrize(("section", "values"), EDGES, ids=lambda case: str(case))
def test_boundary_values_are_accepted(section: str, values: dict[str, Any]) -> None:
    found = getattr(validated({section: values}), section)
    for key, value in values.items():
        assert getattr(found, key) == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(
    ("model", "accepted"),
    [
        ({"window": 64}, True),
        ({"window": 8}, True),
        ({"window": 65}, False),
        ({}, False),  # it would see further than it has learned to
        ({"window": 64, "positions": "learned"}, False),
        ({"window": 64, "positions": "sinusoidal"}, False),
    ],
)
def test_context_of_training_may_be_shorter_where_the_model_sees_no_further(
    model: dict[str, Any], accepted: bool
) -> None:
    layer = {"model": {"context": 256, **model}, "train": {"context": 64, "batch": 3}}
    if accepted:
        settings = validated(layer)
        assert settings.step_tokens == 3 * 64
        assert (settings.model.context, settings.train_context) == (256, 64)
        assert validated({}, {"train": {"context": 256}}).trained_model == validated({}).model
        return
    with pytest.raises(UserError, match=r"train\.context = 64 is shorter than model\.context = 256") as refused:
        validated(layer)
    assert "--model.window 64" in refused.value.hint
    assert "--train.context null" in refused.value.hint


def test_model_vocabulary_below_tokenizer_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.vocab_size = 64 .* tokenizer\.vocab_size = 65"):
        validated({"model": {"vocab_size": 64}, "tokenizer": {"vocab_size": 65}})


@pytest.mark.parametrize("there", [{"data": {"path": "made"}}, {"tokenizer": {"file": "tokenizer.json"}}])
def test_existing_tokenizer_may_have_any_vocabulary(there: dict[str, Any]) -> None:
    asked = {"model": {"vocab_size": 64}, "tokenizer": {"vocab_size": 65}}
    assert validated(merge(asked, there)).model.vocab_size == 64


def test_hint_for_micro_batch_lists_divisors() -> None:
    with pytest.raises(UserError) as caught:
        TrainConfig(batch=12, micro_batch=5)
    assert "1, 2, 3, 4, 6, 12" in caught.value.hint


def test_hint_for_kv_heads_lists_divisors() -> None:
    with pytest.raises(UserError) as caught:
        ModelConfig(n_head=6, n_kv_head=4)
    assert "1, 2, 3, 6" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("train.lr", "optim.lr"),
        ("model.lr", "optim.lr"),
        ("train.n_layer", "model.n_layer"),
        ("model.seed", "train.seed"),
        ("data.batch", "train.batch"),
        ("tokenizer.context", "model.context"),
        ("optim.steps", "train.steps"),
        ("model.n_layers", "model.n_layer"),
        ("modle.n_layer", "model.n_layer"),
        ("optim.learning_rate", "optim.lr"),
    ],
)
def test_misspelt_setting_suggests_the_name(name: str, near: str) -> None:
    section, key = name.split(".")
    with pytest.raises(UserError) as caught:
        validated({section: {key: 1}})
    assert f"'{name}'" in caught.value.message
    if key == "learning_rate":
        assert caught.value.hint
    else:
        assert f"'{near}'" in caught.value.hint


def test_every_setting_has_help() -> None:
    for section, config in get_type_hints(Settings).items():
        for field in fields(config):
            assert field.metadata.get("help"), f"{section}.{field.name}"


text = st.text(max_size=8) | st.sampled_from(["null", "~", "#", "true", "3", "&a", "# def"])
share = st.floats(0, 0.4)
everything = st.builds(
    Settings,
    model=st.builds(
        ModelConfig,
        n_layer=st.integers(1, 50),
        n_head=st.just(4),
        n_kv_head=st.sampled_from([None, 1, 2, 4]),
        n_embd=st.sampled_from([16, 64]),
        head_dim=st.sampled_from([None, 8]),
        vocab_size=st.none() | st.integers(100, 1000),
        dropout=st.floats(0, 0.9),
        positions=st.sampled_from(["learned", "sinusoidal", "rotary"]),
        mlp=st.sampled_from(["gelu", "gelu_tanh", "relu", "relu2", "swiglu"]),
        norm_eps=st.none() | st.floats(1e-12, 1e-2),
        rotary_base=st.floats(2, 1e7),
        window=st.none() | st.integers(1, 256),
        softcap=st.none() | st.floats(1, 100),
        qkv_bias=st.booleans(),
        head_bias=st.booleans(),
        tied=st.booleans(),
    ),
    data=st.builds(DataConfig, corpus=text, path=st.none() | text, val=share, test=share),
    tokenizer=st.builds(TokenizerConfig, vocab_size=st.none() | st.integers(2, 99), file=st.none() | text),
    optim=st.builds(
        OptimConfig,
        lr=st.floats(1e-2, 1),
        min_lr=st.floats(0, 1e-2),
        betas=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)),
    ),
    train=st.builds(
        TrainConfig,
        steps=st.integers(1, 10**9),
        epochs=st.none() | st.floats(0.1, 100),
        micro_batch=st.sampled_from([None, 1, 16]),
        seed=st.integers(0, 2**63 - 1),
        compile=st.sampled_from(["auto", True, False]),
    ),
    track=st.builds(
        TrackConfig,
        loggers=st.lists(st.sampled_from([*LOGGERS])).map(tuple),
        prompt=st.none() | text,
        temperature=st.floats(0, 2),
    ),
)


# Shrinking would take minutes: building all settings takes a tenth of a second.
@settings(deadline=None, max_examples=20, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(everything, st.booleans())
def test_toml_round_trip_of_all_settings(whole: Settings, explain: bool) -> None:
    assert build(Settings, tomllib.loads(to_toml(whole, explain=explain))) == whole


def test_optional_settings_are_unset_by_default() -> None:
    for section, kind in get_type_hints(Settings).items():
        kinds = get_type_hints(kind)
        for field in fields(kind):
            if type(None) in get_args(kinds[field.name]):
                assert field.default is None, f"{section}.{field.name}"


@pytest.mark.parametrize("name", list(preset_files()))
def test_explained_print_of_a_preset_reads_back_equal(name: str, tmp_path: Path) -> None:
    whole = resolve(name)
    file = tmp_path / "mine.toml"
    file.write_text(to_toml(whole, explain=True, omit=without_effect(whole)), encoding="utf-8")
    assert resolve(str(file)) == whole


def test_overrides_win_over_file_over_preset(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[about]\npreset = "demo"\n[model]\nn_layer = 2\nn_head = 8\n')
    found = resolve(str(file), read_overrides(["--model.n_layer", "3"])).model
    assert (found.n_layer, found.n_head, found.n_embd) == (3, 8, resolve("demo").model.n_embd)


@pytest.mark.parametrize("base", ['"mine.toml"', '"other.toml"', '"absent"', "5", "[]"])
def test_file_with_a_wrong_base_preset_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(f"[about]\npreset = {base}\n")
    (tmp_path / "other.toml").write_text('[about]\npreset = "mine.toml"\n')
    with pytest.raises(UserError):
        resolve("mine.toml") and read_preset("other.toml")


def test_nanogpt_preset_equals_the_example_of_nanogpt() -> None:
    found = resolve("nanogpt-shakespeare-cpu")
    model, train, optim = found.model, found.train, found.optim
    assert (model.n_layer, model.n_head, model.n_embd, model.context, model.dropout) == (4, 4, 128, 64, 0.0)
    assert (train.steps, train.batch, train.grad_clip) == (2000, 12, 1.0)
    assert (optim.lr, optim.min_lr, optim.warmup_steps, optim.betas) == (1e-3, 1e-4, 100, (0.9, 0.99))
    assert (found.data.split_by, found.data.val) == ("tail", 0.1)


def test_misspelt_size_is_recognized() -> None:
    with pytest.raises(UserError) as caught:
        resolve("modern", read_overrides(["--model.siz", "30M"]))
    assert caught.value.hint == "did you mean 'model.size'?"


STEPS, EPOCHS = ["--train.steps", "60"], ["--train.epochs", "2.5"]


def length(settings: Settings) -> tuple[int, float | None]:
    return settings.train.steps, settings.train.epochs


def test_length_of_the_higher_layer_wins(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    assert length(resolve("smallgpt-shakespeare", read_overrides(STEPS))) == (60, None)
    assert length(resolve("demo", read_overrides(EPOCHS)))[1] == 2.5
    file.write_text('[about]\npreset = "smallgpt-shakespeare"\n[train]\nsteps = 70\n')
    assert length(resolve(str(file))) == (70, None)
    assert length(resolve(str(file), read_overrides(EPOCHS)))[1] == 2.5
    file.write_text('[about]\npreset = "demo"\n[train]\nepochs = 3\n')
    assert length(resolve(str(file)))[1] == 3
    assert length(resolve(str(file), read_overrides(STEPS))) == (60, None)
    unset = read_overrides(["--train.epochs", "null"])
    assert length(resolve("smallgpt-shakespeare", unset)) == (TrainConfig().steps, None)
    assert length(resolve("demo", unset)) == (resolve("demo").train.steps, None)
    assert length(resolve("demo", read_overrides([*STEPS, "--train.epochs", "null"]))) == (60, None)


def test_another_tokenizer_brings_its_own_vocabulary() -> None:
    assert resolve("toygpt-small").model.vocab_size == 50_259
    assert resolve("toygpt-small", read_overrides(["--tokenizer.kind", "char"])).model.vocab_size is None
    both = read_overrides(["--tokenizer.kind", "char", "--model.vocab_size", "300"])
    assert resolve("toygpt-small", both).model.vocab_size == 300


def test_two_lengths_in_one_layer_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[train]\nsteps = 70\nepochs = 3\n")
    for refused in (("demo", read_overrides([*STEPS, *EPOCHS])), (str(tmp_path / "mine.toml"), read_overrides(STEPS))):
        with pytest.raises(UserError, match=r"train\.steps and train\.epochs") as refusal:
            resolve(*refused)
        assert refusal.value.hint == "keep one of them"


def test_steps_are_not_printed_beside_epochs() -> None:
    whole = resolve("smallgpt-shakespeare")
    assert "steps" not in to_layer(whole, omit=without_effect(whole))["train"]
    assert without_effect(resolve("demo")) == []


def test_length_of_a_higher_layer_replaces_the_time_it_was_planned_for() -> None:
    timed = {"train": {"steps": 50, "minutes": 3.0, "step_limit": 80}}
    for above in ({"train": {"steps": 9}}, {"train": {"epochs": 2.0}}, {"model": {"size": "1M"}}):
        train = validated(timed, above).train
        assert (train.minutes, train.step_limit) == (None, None)
    longer = validated(timed, {"train": {"minutes": 5.0}}).train
    assert (longer.steps, longer.minutes, longer.step_limit) == (50, 5.0, 80)
