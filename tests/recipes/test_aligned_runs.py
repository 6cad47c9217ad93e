"""Runs of alignment in the commands for all runs: a reward model writes no text, adapters are merged."""

import importlib.util
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_model

import fledge
from fledge.alignment.config import METHOD_SETTINGS
from fledge.checkpoint.state import initial_state, weights_of
from fledge.cli.main import main
from fledge.core.config import build, to_toml
from fledge.core.errors import UserError
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build as build_model
from fledge.recipes.align import align_settings
from fledge.recipes.request import resolve_request
from fledge.runs.methods import method_of
from fledge.runs.run_folder import RunFolder, create_run
from fledge.settings.layers import read_align_preset
from fledge.settings.pipeline import init_layer, validated
from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.char import CharTokenizer
from fledge.training.init_from import InitialWeights, find_initial_weights
from tiny_chat import chat_tokenizer

TOKENIZER = chat_tokenizer()
SHAPE = {"n_layer": 1, "n_head": 2, "n_embd": 16, "context": 24, "vocab_size": TOKENIZER.vocab_size}


def aligned(runs: Path, method: str, **model: Any) -> tuple[RunFolder, GPT]:
    config = ModelConfig(**{**SHAPE, **model})
    made = build_model(config, 0).eval()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)
    settings = build(METHOD_SETTINGS[method], {"model": asdict(config), "align": {"method": method}})
    start = initial_state(weights_of(made), 0)
    return create_run(runs / f"{method}-run", to_toml(settings), {"started": "today"}, TOKENIZER, start), made


@pytest.mark.parametrize(
    "command",
    [
        ("chat", "reward-run"),
        ("generate", "reward-run", "--prompt", "a"),
        ("serve", "reward-run"),
        ("export", "reward-run", "--to", "hf", "--out", "OUT"),
        ("export", "reward-run", "--to", "gguf", "--out", "OUT"),
        ("eject", "reward-run", "--out", "OUT"),
        ("eval", "reward-run", "--suite", "offline"),
        ("train", "demo", "--init", "reward-run"),
    ],
    ids=lambda words: " ".join(words[:1] + words[2:4]),
)
def test_reward_model_writes_no_text(
    tmp_path: Path, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    aligned(tmp_path / "runs", "reward", value_head=True)
    out = tmp_path / "out"
    words = [str(out) if word == "OUT" else word for word in command]
    assert main([*words, "--runs", str(tmp_path / "runs")]) == 2
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert error == "error: 'reward-run' is a reward model: it scores answers, and writes none"
    assert "hint: measure it: fledge eval" in hint
    assert not out.exists()


def test_reward_model_from_python(tmp_path: Path) -> None:
    aligned(tmp_path, "reward", value_head=True)
    with pytest.raises(UserError, match="is a reward model"):
        fledge.load("reward-run", runs=tmp_path).generate("a")


@pytest.mark.parametrize("method", ["sft", "ppo"])
def test_other_methods_write_text(tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    run, _ = aligned(tmp_path, method, value_head=method == "ppo", lora=2)
    assert method_of(run) == method
    assert main(["generate", run.name, "--prompt", "a", "--tokens", "3", "--runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out


def ejected(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("ejected_lora", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ejected_file_has_merged_weights_beside_it(tmp_path: Path) -> None:
    from fledge.recipes.eject import eject

    run, model = aligned(tmp_path, "ppo", lora=2, value_head=True)
    result = eject(run.name, str(tmp_path / "gpt.py"), runs=tmp_path)
    assert result.weights == tmp_path / "gpt.safetensors"
    single = ejected(result.file).GPT()
    load_model(single, result.weights)
    ids = torch.arange(20)[None]
    torch.testing.assert_close(single.eval()(ids), model(ids), rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="already exists"):
        eject(run.name, str(tmp_path / "other.py").replace("other", "gpt"), runs=tmp_path)


def test_pretraining_continues_from_a_plain_model(tmp_path: Path) -> None:
    run, _ = aligned(tmp_path, "ppo", lora=2, value_head=True)
    layer = init_layer(run, None, {})
    assert "align" not in layer
    assert "ppo" not in layer
    settings = validated(layer)
    assert (settings.model.lora, settings.model.value_head) == (None, False)
    with_adapters = resolve_request(["demo"], {"model": {"lora": 4}}, tmp_path, run.name)
    assert with_adapters.settings.model.lora == 4


@pytest.mark.parametrize(
    ("model", "words"), [({"lora": 4}, "there is none"), ({"value_head": True}, "no use in pretraining")]
)
def test_pretraining_refuses_what_needs_a_trained_model(tmp_path: Path, model: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        resolve_request(["demo"], {"model": model}, tmp_path)


def base_run(runs: Path, tokenizer: Tokenizer) -> InitialWeights:
    config = ModelConfig(**{**SHAPE, "vocab_size": tokenizer.vocab_size})
    settings = validated({"model": asdict(config)})
    create_run(runs / "base", to_toml(settings), {}, tokenizer, initial_state(weights_of(build_model(config, 0)), 0))
    return find_initial_weights("base", runs)


@pytest.mark.parametrize("has_chat_tokens", [True, False])
@pytest.mark.parametrize("lora", [None, 4])
def test_settings_with_adapters(tmp_path: Path, has_chat_tokens: bool, lora: int | None) -> None:
    """Adapters learn at ten times the rate; the embedding is trained with them only where tokens are new."""
    initial = base_run(tmp_path, TOKENIZER if has_chat_tokens else CharTokenizer("abc ?"))
    preset = read_align_preset("sft")["optim"]["lr"]
    found = align_settings("sft", initial, ["addition"], [], {"model": {"lora": lora}}, tmp_path)
    assert found.optim.lr == pytest.approx(preset * (10 if lora else 1))
    assert found.model.lora_embeddings == (bool(lora) and not has_chat_tokens)
    assert found.model.vocab_size == (TOKENIZER.vocab_size if has_chat_tokens else 9)
    chosen = align_settings(
        "sft", initial, ["addition"], [], {"model": {"lora": lora}, "optim": {"lr": 1e-5}}, tmp_path
    )
    assert chosen.optim.lr == 1e-5


def test_new_value_head_of_a_reward_model_is_random(tmp_path: Path) -> None:
    initial = base_run(tmp_path, TOKENIZER)
    model = align_settings("reward", initial, ["addition"], [], {}, tmp_path).model
    assert model.value_head
    weights = initial.weights(model, 3)["value_head.weight"]
    assert 0.5 < float(weights.std() * 16**0.5) < 2
    assert torch.equal(weights, weights_of(build_model(model, 3))["value_head.weight"])
    policy = align_settings("dpo", initial, ["addition"], [], {}, tmp_path).model
    assert not policy.value_head


def test_policy_cannot_start_from_a_reward_model(tmp_path: Path) -> None:
    aligned(tmp_path, "reward", value_head=True)
    initial = find_initial_weights("reward-run", tmp_path)
    with pytest.raises(UserError, match="is a reward model"):
        align_settings("ppo", initial, ["addition"], [], {}, tmp_path)
    assert align_settings("reward", initial, ["addition"], [], {}, tmp_path).model.value_head


@pytest.mark.parametrize("method", ["reward", "dpo", "grpo"])
def test_report_of_an_alignment_run_tells_method_and_settings(method: str, tmp_path: Path) -> None:
    run, _ = aligned(tmp_path, method)
    assert main(["report", f"{method}-run", "--runs", str(tmp_path)]) == 0
    page = (run.folder / "report.md").read_text()
    assert "## Alignment" in page
    for name, default in run.config().get(method, {}).items():
        assert name.replace("_", " ") in page.replace("\\", ""), default
    assert f"fledge align {method}" in page
