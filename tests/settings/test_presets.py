"""The presets have the published sizes and settings; their text, JSON and docs/presets.md agree."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fledge.cli.main import main
from fledge.core.config import read_overrides
from fledge.core.errors import UserError
from fledge.core.formatting import short_count
from fledge.model import flops
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.settings.layers import preset_files
from fledge.settings.pipeline import resolve
from fledge.settings.presets import describe_preset, model_parts, preset_settings
from fledge.text.corpora import CORPORA

transformers = pytest.importorskip("transformers")

PUBLISHED = {
    "toygpt-small": 123_703_635,
    "toygpt-medium": 253_055_059,
    "toygpt-large": 1_311_579_219,
    "smallgpt-shakespeare": 134_117_376,
    "smol-gpt-22m": 21_993_024,
    "smollgpt-130m": 134_746_729,
    "scratch-char": 209_473,
    "scratch-owt10k": 87_189_073,
    "scratch-fineweb": 124_439_808,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
}
PUBLISHED_RECIPES = [
    name
    for name in preset_files()
    if name.partition("-")[0] in ("smol", "smallgpt", "smollgpt", "toygpt", "scratch", "nanogpt")
]
GPT2 = [name for name in PUBLISHED if name.startswith("gpt2")]
MODERN = {"modern-5m": 5e6, "modern-30m": 30e6, "modern-125m": 125e6, "modern-350m": 350e6}


@pytest.mark.parametrize("name", preset_files())
def test_character_presets_leave_the_vocabulary_open(name: str) -> None:
    settings = resolve(name)
    if settings.tokenizer.kind == "char":
        assert settings.model.vocab_size is settings.tokenizer.vocab_size is None


def model_of(name: str) -> ModelConfig:
    return preset_settings(name)[0].model


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    assert main(["presets", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_equal_the_published_number(name: str) -> None:
    assert describe_preset(name).parameters == PUBLISHED[name]


@pytest.mark.parametrize("name", list(preset_files()))
def test_built_model_has_the_stated_parameters(name: str) -> None:
    with torch.device("meta"):
        model = GPT(model_of(name))
    assert all(t.is_meta for t in [*model.parameters(), *model.buffers()])
    assert sum(p.numel() for p in model.parameters()) == describe_preset(name).parameters


@pytest.mark.parametrize("name", GPT2)
def test_gpt2_shape_equals_transformers(name: str) -> None:
    ours = model_of(name)
    shape = transformers.GPT2Config(n_layer=ours.n_layer, n_head=ours.n_head, n_embd=ours.n_embd)
    with torch.device("meta"):
        theirs = transformers.GPT2LMHeadModel(shape)
    assert theirs.num_parameters() == describe_preset(name).parameters
    assert (shape.n_positions, shape.vocab_size, shape.layer_norm_epsilon) == (ours.context, ours.vocab_size, ours.eps)
    assert (shape.activation_function, ours.mlp) == ("gelu_new", "gelu_tanh")
    assert shape.resid_pdrop == ours.dropout


@pytest.mark.parametrize("name", MODERN)
def test_modern_presets_are_qwen3_of_their_size(name: str) -> None:
    ours = model_of(name)
    shape = transformers.Qwen3Config(
        vocab_size=ours.vocab_size,
        hidden_size=ours.n_embd,
        intermediate_size=ours.mlp_hidden_width,
        num_hidden_layers=ours.n_layer,
        num_attention_heads=ours.n_head,
        num_key_value_heads=ours.kv_heads,
        head_dim=ours.head_width,
        tie_word_embeddings=ours.tied,
    )
    with torch.device("meta"):
        theirs = transformers.Qwen3ForCausalLM(shape)
    assert theirs.num_parameters() == describe_preset(name).parameters
    assert abs(describe_preset(name).parameters / MODERN[name] - 1) < 0.05
    assert describe_preset(name).parts == ["rotary", "rmsnorm", "qk_norm", "swiglu", "no biases", "tied"]
    assert (ours.kv_heads < ours.n_head) == (name in ("modern-125m", "modern-350m"))
    assert ours.head_width % 32 == ours.n_embd % 32 == ours.mlp_hidden_width % 32 == 0  # blocks of q8_0


def test_toygpt_presets_differ_in_their_shape_only() -> None:
    small, medium, large = (resolve(f"toygpt-{size}") for size in ("small", "medium", "large"))
    assert (small.optim, small.train, small.data) == (medium.optim, medium.train, medium.data)
    assert (small.optim, small.train, small.data) == (large.optim, large.train, large.data)
    assert small.model == replace(large.model, n_layer=12, n_head=8, n_embd=768)
    assert small.model == replace(medium.model, n_layer=12, n_head=8, n_embd=768)
    assert (small.train.patience, small.train.eval_every, small.data.test) == (10, 2000, 0.01)


def test_smol_gpt_trains_on_the_three_splits_of_wikitext() -> None:
    data, train = resolve("smol-gpt-22m").data, resolve("smol-gpt-22m").train
    corpus = CORPORA[str(data.corpus)]
    assert (corpus.val, corpus.test, data.val, data.test) == ("wikitext-validation", "wikitext-test", None, 0.0)
    assert (data.corpus, data.csv, resolve("smol-gpt-22m").tokenizer.end_of_text) == ("wikitext-103", True, False)
    assert (train.steps, train.batch, train.micro_batch, train.eval_tokens) == (50_000, 8 * 32, 32, 120 * 32 * 196)


def test_smollgpt_has_the_length_and_the_windows_of_its_log() -> None:
    found = resolve("smollgpt-130m")
    assert (found.train.steps, found.train.batch, found.train.micro_batch) == (33_500, 256, 64)
    assert (found.data.stride, found.data.val, found.tokenizer.kind) == (1025, 0.1, "p50k")


def test_scratch_owt10k_has_the_published_rates() -> None:
    found = resolve("scratch-owt10k")
    assert (found.optim.lr, found.optim.min_lr, found.train.epochs) == (5e-4, 6e-4, 1.0)
    with pytest.raises(UserError, match=r"optim\.min_lr = 0\.0006 must lie between 0 and optim\.lr = 0\.0005"):
        resolve("scratch-owt10k", read_overrides(["--optim.allow_rising", "false"]))


def test_nanogpt_prints_the_same_number_of_parameters() -> None:
    without_places = describe_preset("nanogpt-shakespeare-char").parameters - 256 * 384
    assert f"{without_places / 1e6:.2f}M" == "10.65M"  # as nanoGPT prints it


@pytest.mark.parametrize("name", PUBLISHED_RECIPES)
def test_source_is_a_repository(name: str) -> None:
    assert describe_preset(name).source.startswith("github.com/")


@pytest.mark.parametrize("name", list(preset_files()))
def test_every_preset_names_a_known_corpus(name: str) -> None:
    assert set(resolve(name).data.sources) <= set(CORPORA)


def test_docs_page_equals_the_markdown_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", "--markdown"]) == 0
    page = Path(__file__).parents[2] / "docs" / "presets.md"
    assert page.read_text(encoding="utf-8") == capsys.readouterr().out


def test_json_of_a_preset_has_its_costs(capsys: pytest.CaptureFixture[str]) -> None:
    found, model = told(capsys, "modern-125m"), model_of("modern-125m")
    assert found["parameters"] == flops.parameter_count(model)
    assert found["non_embedding_parameters"] == found["parameters"] - 32768 * 768
    assert found["training_flops_per_token"] == 3 * found["forward_flops_per_token"]
    assert found["cache_bytes_per_token"] == 16 * 2 * 4 * 64 * 2
    assert found["cache_bytes"] == 2048 * found["cache_bytes_per_token"]
    assert found["source"] == "fledge"
    assert found in told(capsys)


def test_presets_are_sorted_by_family_and_size(capsys: pytest.CaptureFixture[str]) -> None:
    names = [row["name"] for row in told(capsys)]
    assert names[1:5] == GPT2
    assert [name for name in names if name in MODERN] == list(MODERN)


def test_text_of_a_preset_has_its_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", "gpt2"]) == 0
    out = capsys.readouterr().out
    assert "# 124,439,808 parameters, 85,056,000 without embeddings and head" in out
    assert "36.9 KB per token, 37.7 MB for a full context" in out
    assert "for a micro-batch of 16" in out


@pytest.mark.parametrize(
    ("number", "words"), [(999_999, "999,999"), (10**6, "1 million"), (1_057_000_000, "1.06 billion")]
)
def test_large_numbers_are_shortened(number: int, words: str) -> None:
    assert short_count(number) == words


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"block": "post_norm", "init": "torch"}, {"post_norm", "torch initialization"}),
        ({"final_norm": False, "dropout": 0.25}, {"no final norm", "dropout 0.25"}),
        ({"dropout": 0.1, "dropout_on": ("mlp", "stream")}, {"dropout 0.1 on mlp, stream"}),
    ],
)
def test_parts_name_every_style(changed: dict[str, Any], words: set[str]) -> None:
    plain = ModelConfig(vocab_size=10)
    assert set(model_parts(replace(plain, **changed))) - set(model_parts(plain)) == words
