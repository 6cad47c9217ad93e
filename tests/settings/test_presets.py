"""The presets have the published sizes and settings; their text, JSON and docs/presets.md agree."""

import json
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
from fledge.settings.presets import describe_preset, preset_settings
from fledge.text.corpora import CORPORA

transformers = pytest.importorskip("transformers")

PUBLISHED = {
    "toygpt-small": 123_703_633,
    "toygpt-medium": 253_055_057,
    "toygpt-large": 1_311_579_217,
    "smallgpt-shakespeare": 134_117_376,
    "smol-gpt-22m": 21_993_024,
    "smollgpt-130m": 134_685_696,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
}
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


def test_toygpt_has_sinusoidal_positions_and_head_bias() -> None:
    for name in ("toygpt-small", "toygpt-medium", "toygpt-large"):
        model = model_of(name)
        assert (model.positions, model.head_bias, model.tied, model.mlp) == ("sinusoidal", True, True, "gelu")
        assert (model.context, model.vocab_size, model.dropout) == (512, 50257, 0.1)


def test_smallgpt_settings_are_the_published_ones() -> None:
    found = resolve("smallgpt-shakespeare")
    assert (found.optim.lr, found.optim.weight_decay, found.optim.schedule) == (3e-4, 0.1, "cosine")
    assert (found.train.grad_clip, found.train.batch, found.train.epochs) == (1.0, 16, 15)
    assert (found.model.mlp_hidden_width, found.model.dropout) == (2 * 768, 0.1)


def test_smol_gpt_accumulates_8_times_32_sequences() -> None:
    found = resolve("smol-gpt-22m")
    assert (found.train.batch, found.train.micro_batch) == (256, 32)
    assert (found.optim.lr, found.optim.min_lr, found.optim.warmup_steps) == (5e-3, 1e-5, 750)
    assert (found.data.corpus, found.model.mlp, found.model.dropout) == ("wikitext-103", "relu", 0.3)


def test_smollgpt_trains_4_epochs_on_wikipedia() -> None:
    found = resolve("smollgpt-130m")
    assert (found.train.batch, found.train.epochs, found.data.corpus) == (256, 4, "wikipedia-en")
    assert found.optim.min_lr == pytest.approx(found.optim.lr / 10)


def test_scratch_char_trains_5_epochs_with_stride_1() -> None:
    found = resolve("scratch-char")
    assert (found.data.stride, found.train.epochs, found.train.batch, found.optim.lr) == (1, 5, 64, 5e-4)
    assert (found.model.n_layer, found.model.n_head, found.model.head_width, found.model.context) == (4, 4, 16, 32)


def test_scratch_owt10k_documents_its_min_lr() -> None:
    with pytest.raises(UserError, match=r"optim\.min_lr = 0\.0006 must lie between 0 and optim\.lr = 0\.0005"):
        resolve("scratch-owt10k", read_overrides(["--optim.min_lr", "6e-4"]))
    found = resolve("scratch-owt10k")
    assert (found.optim.lr, found.optim.min_lr) == (5e-4, 5e-5)
    assert "not the published 6e-4" in preset_files()["scratch-owt10k"].read_text()
    assert (found.model.n_head, found.model.head_width, found.train.micro_batch) == (4, 4, 32)
    assert found.train.batch == 16 * 32


def test_nanogpt_shakespeare_char_equals_nanogpt() -> None:
    found = resolve("nanogpt-shakespeare-char")
    model, train, optim = found.model, found.train, found.optim
    assert (model.n_layer, model.n_head, model.n_embd, model.context, model.dropout) == (6, 6, 384, 256, 0.2)
    assert (train.steps, train.batch, optim.lr, optim.min_lr, optim.betas) == (5000, 64, 1e-3, 1e-4, (0.9, 0.99))
    without_places = describe_preset("nanogpt-shakespeare-char").parameters - 256 * 384
    assert f"{without_places / 1e6:.2f}M" == "10.65M"  # as nanoGPT prints it


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
