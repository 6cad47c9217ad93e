"""GGUF: llama.cpp generates the same tokens from the written file, and reading it gives the model back."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf as library
import numpy as np
import pytest
import torch

from fledge.checkpoint.state import weights_of
from fledge.core.errors import UserError
from fledge.exchange import compatibility, gguf
from fledge.exchange.parity import reference_model
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.char import CharTokenizer
from fledge.tokenizers.chat_template import ChatTemplate
from fledge.tokenizers.hf import HFTokenizer

from .conftest import CLASSIC, MODERN, PLAIN, SHAPES, TEXT, VOCABULARY

Make = Callable[[ModelConfig], GPT]
PROMPT = "The duck wrote"
# The variations that each architecture of llama.cpp can hold.
MODELS = {
    "gpt2": (CLASSIC, "gpt2"),
    "gpt2 untied, narrow": (replace(CLASSIC, tied=False, mlp_width=96), "gpt2"),
    "gpt2 without biases": (
        replace(CLASSIC, qkv_bias=False, output_bias=False, mlp_bias=False, norm_bias=False),
        "gpt2",
    ),
    "llama": (SHAPES["LlamaForCausalLM"], "llama"),
    "llama, narrow heads": (replace(PLAIN, head_dim=8, tied=True), "llama"),
    "llama with biases": (replace(PLAIN, qkv_bias=True, output_bias=True, mlp_bias=True, n_kv_head=None), "llama"),
    "qwen2": (SHAPES["Qwen2ForCausalLM"], "qwen2"),
    "qwen3": (SHAPES["Qwen3ForCausalLM"], "qwen3"),
    "qwen3 tied": (replace(MODERN, tied=True, n_kv_head=1), "qwen3"),
    "qwen3 padded": (replace(MODERN, vocab_size=320), "qwen3"),
}


@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_generates_the_same_tokens(
    tmp_path: Path, make: Make, greedy: Any, tokenizer: HFTokenizer, llama: Any, name: str, dtype: str
) -> None:
    config, architecture = MODELS[name]
    model, path = make(config), tmp_path / "model.gguf"
    with torch.no_grad():  # only numbers that f16 holds exactly, so that both dtypes must give the same tokens
        for p in model.parameters():
            p.copy_(p.half())
    assert gguf.write_gguf(path, model, tokenizer, dtype, "model") == architecture
    prompt = tokenizer.encode(PROMPT).tolist()
    theirs = llama(path)
    assert theirs.tokens(PROMPT) == prompt
    assert theirs.greedy(prompt, 64) == greedy(model, prompt, 64, never=tokenizer.end_of_text)


def test_q8_0_runs_in_llama_cpp_and_is_smaller(tmp_path: Path, make: Make, tokenizer: HFTokenizer, llama: Any) -> None:
    model, path = make(MODERN), tmp_path / "model.gguf"
    gguf.write_gguf(path, model, tokenizer, "q8_0", "model")
    assert len(llama(path).greedy(tokenizer.encode(PROMPT).tolist(), 16)) == 16
    exact = tmp_path / "exact.gguf"
    gguf.write_gguf(exact, model, tokenizer, "f32", "model")
    assert path.stat().st_size < 0.45 * exact.stat().st_size


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8_0"])
@pytest.mark.parametrize("name", MODELS)
def test_reading_inverts_writing(tmp_path: Path, make: Make, tokenizer: HFTokenizer, name: str, dtype: str) -> None:
    config, architecture = MODELS[name]
    model, path = make(config), tmp_path / "model.gguf"
    gguf.write_gguf(path, model, tokenizer, dtype, "model")
    found = gguf.read_gguf(path)
    assert found.architecture == architecture
    constraints = gguf.GGUF_ARCHITECTURES[architecture].constraints_of(config)
    expected = compatibility.make_compatible(config, weights_of(model), constraints)
    assert compatibility.resolved_settings(found.model) == compatibility.resolved_settings(expected.model)
    assert found.tokenizer.to_json()["model"] == tokenizer.to_json()["model"]
    parity = gguf.check_gguf(path, model, tokenizer, dtype)
    if dtype == "f32":
        assert all(torch.equal(found.weights[name], weight) for name, weight in expected.weights.items())
        assert parity.difference < 1e-4
    else:
        assert 1e-4 < parity.difference < 0.1 * parity.largest


def test_chat_template_is_written_and_read(tmp_path: Path, make: Make, tokenizer: HFTokenizer) -> None:
    settings = {"chat_template": "{{ messages[0].content }}<|endoftext|>", "eos_token": "<|endoftext|>"}
    template = ChatTemplate(tokenizer, settings)
    gguf.write_gguf(tmp_path / "model.gguf", make(MODERN), tokenizer, "f32", "model", template)
    assert gguf.read_gguf(tmp_path / "model.gguf").chat == {**settings, "bos_token": "<|endoftext|>"}
    gguf.write_gguf(tmp_path / "plain.gguf", make(MODERN), tokenizer, "f32", "model")
    assert gguf.read_gguf(tmp_path / "plain.gguf").chat == {}


def test_width_not_divisible_into_blocks_is_stored_as_f16(tmp_path: Path, make: Make, tokenizer: HFTokenizer) -> None:
    model, path = make(replace(MODERN, mlp_width=72)), tmp_path / "model.gguf"
    gguf.write_gguf(path, model, tokenizer, "q8_0", "model")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in library.GGUFReader(path).tensors}
    assert (kinds["blk.0.ffn_down.weight"], kinds["blk.0.ffn_up.weight"]) == ("F16", "Q8_0")
    assert (kinds["output_norm.weight"], kinds["token_embd.weight"]) == ("F32", "Q8_0")
    gguf.check_gguf(path, model, tokenizer, "q8_0")


def test_weight_too_large_for_f16_is_named(tmp_path: Path, make: Make, tokenizer: HFTokenizer) -> None:
    model = make(MODERN)
    with torch.no_grad():
        model.embed.weight[7, 3] = 1e6
    gguf.write_gguf(tmp_path / "model.gguf", model, tokenizer, "f16", "model")
    with pytest.raises(UserError, match=r"'embed\.weight' does not fit into f16") as caught:
        gguf.check_gguf(tmp_path / "model.gguf", model, tokenizer, "f16")
    assert "--dtype f32" in caught.value.hint


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4"])
def test_llama_cpp_gives_the_same_ids(tmp_path: Path, make: Make, llama: Any, pattern: str) -> None:
    tokenizer = HFTokenizer.train([TEXT], VOCABULARY, "<|endoftext|>", pattern=pattern)
    gguf.write_gguf(tmp_path / "model.gguf", make(MODERN), tokenizer, "f16", "model")
    theirs = llama(tmp_path / "model.gguf")
    for text in (TEXT, "  a\n\n\nb\t c 1234567 'S it'S IT'LL 日本 🦆 naïve\r\n x", "1 22 333 4444", "\n", " ", "café"):
        assert theirs.tokens(text) == tokenizer.encode(text).tolist()


@pytest.mark.parametrize("name", ["llama-bpe", "qwen2", "smollm"])
def test_pre_tokenizers_of_known_models_are_named(
    tmp_path: Path, make: Make, tokenizer: HFTokenizer, llama: Any, name: str
) -> None:
    content = tokenizer.to_json()
    content["pre_tokenizer"] = gguf.gguf_tokenizer.PRE_TOKENIZERS[name].content
    content["model"]["ignore_merges"] = name == "llama-bpe"
    content["normalizer"] = {"type": "NFC"} if name == "qwen2" else None
    changed = HFTokenizer(content)
    gguf.write_gguf(tmp_path / "model.gguf", make(MODERN), changed, "f16", "model")
    theirs = llama(tmp_path / "model.gguf")
    for text in (TEXT, "1 22 333 4444 it'S 1a2b", "x  y\n\nz"):
        assert theirs.tokens(text) == changed.encode(text).tolist()
    back = gguf.read_gguf(tmp_path / "model.gguf").tokenizer
    assert back.encode(TEXT).tolist() == changed.encode(TEXT).tolist()


def without_end_of_text() -> Tokenizer:
    return HFTokenizer.train([TEXT], VOCABULARY)


def char_tokenizer() -> Tokenizer:
    return CharTokenizer.train([TEXT], special="<|endoftext|>")


def with_another_pre_tokenizer() -> Tokenizer:
    content = HFTokenizer.train([TEXT], VOCABULARY, "<|endoftext|>").to_json()
    content["pre_tokenizer"] = {**content["pre_tokenizer"], "add_prefix_space": True}
    return HFTokenizer(content)


@pytest.mark.parametrize(
    ("made", "why"),
    [(without_end_of_text, "end-of-text"), (char_tokenizer, "characters"), (with_another_pre_tokenizer, "no name for")],
)
def test_unsupported_tokenizer_is_refused_with_the_reason(
    tmp_path: Path, make: Make, made: Callable[[], Tokenizer], why: str
) -> None:
    with pytest.raises(UserError, match=why) as caught:
        gguf.write_gguf(tmp_path / "model.gguf", make(MODERN), made(), "f16", "model")
    assert "--to hf" in caught.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("config", "words", "hint"),
    [
        (replace(CLASSIC, mlp="gelu"), "model.mlp = gelu", "--model.mlp gelu_tanh"),
        (replace(MODERN, window=8), "model.window = 8", "--model.window null"),
        (replace(CLASSIC, head_bias=True), "model.head_bias = true", "--model.head_bias false"),
        (replace(CLASSIC, positions="sinusoidal"), "model.positions = sinusoidal", "--model.positions learned"),
        (replace(CLASSIC, n_embd=67, head_dim=16), "model.n_embd = 67", "--model.n_embd 64"),
        (replace(CLASSIC, block="post_norm"), "model.block = post_norm", "--model.block pre_norm"),
        (replace(MODERN, final_norm=False), "model.final_norm = false", "--model.final_norm true"),
        (replace(MODERN, qkv_bias=True), "model.qk_norm = true", "as qwen2"),
    ],
)
def test_unsupported_model_is_refused_with_the_setting(
    tmp_path: Path, make: Make, tokenizer: HFTokenizer, config: ModelConfig, words: str, hint: str
) -> None:
    with pytest.raises(UserError) as caught:
        gguf.write_gguf(tmp_path / "model.gguf", make(config), tokenizer, "f32", "model")
    assert words in caught.value.message
    assert hint in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_truncated_file_is_refused_by_name(tmp_path: Path, make: Make, tokenizer: HFTokenizer) -> None:
    path = tmp_path / "model.gguf"
    gguf.write_gguf(path, make(MODERN), tokenizer, "f16", "model")
    complete = path.read_bytes()
    for kept in (0, 3, 4, 20, 100, 1000, 5000, 15_000, len(complete) // 2, len(complete) - 5000, len(complete) - 1):
        path.write_bytes(complete[:kept])
        with pytest.raises(UserError, match=r"model\.gguf"):
            gguf.read_gguf(path)
    path.write_bytes(b"not a GGUF at all, but a text")
    with pytest.raises(UserError, match="not a GGUF"):
        gguf.read_gguf(path)


def write_keys(path: Path, architecture: str, **keys: Any) -> None:
    file = library.GGUFWriter(path, architecture)
    for key, value in keys.items():
        add = file.add_string if isinstance(value, str) else file.add_uint32
        add(key.replace("__", "."), value)
    file.add_tensor("token_embd.weight", np.zeros((4, 32), dtype=np.float32))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


@pytest.mark.parametrize(
    ("architecture", "keys", "words"),
    [
        ("mamba", {}, "unsupported architecture: mamba"),
        ("llama", {}, "lacks llama.block_count"),
        ("llama", {"llama__rope__scaling__type": "yarn"}, "scaled rotary positions"),
        ("llama", {"llama__rope__scaling__factor": 2}, "scaled rotary positions"),
        ("llama", {"llama__rope__scale_linear": 4}, "scaled rotary positions"),
        ("llama", {"llama__rope__scaling__type": "none", "llama__rope__scaling__factor": 2}, "lacks llama.block_count"),
        ("llama", {"llama__rope__scaling__factor": 1}, "lacks llama.block_count"),
    ],
)
def test_unsupported_file_is_refused_with_the_reason(
    tmp_path: Path, architecture: str, keys: dict[str, Any], words: str
) -> None:
    write_keys(tmp_path / "model.gguf", architecture, **keys)
    with pytest.raises(UserError, match=words) as caught:
        gguf.read_gguf(tmp_path / "model.gguf")
    assert caught.value.hint


def test_unknown_pre_tokenizer_asks_for_a_tokenizer(tmp_path: Path, make: Make, tokenizer: HFTokenizer) -> None:
    path = tmp_path / "model.gguf"
    model = make(MODERN)
    gguf.write_gguf(path, model, tokenizer, "f32", "model")
    path.write_bytes(path.read_bytes().replace(b"\x05\0\0\0\0\0\0\0gpt-2", b"\x05\0\0\0\0\0\0\0other"))
    with pytest.raises(UserError, match="other") as caught:
        gguf.read_gguf(path)
    assert "--tokenizer" in caught.value.hint
    found = gguf.read_gguf(path, tokenizer)
    assert torch.equal(reference_model(found.model, found.weights).embed.weight, model.embed.weight)
