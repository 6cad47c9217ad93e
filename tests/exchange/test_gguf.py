"""GGUF: llama.cpp runs what is written, token for token; and what it holds comes back."""

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
from fledge.tokenizers.hf import HFTokenizer

from .conftest import CLASSIC, MODERN, PLAIN, SHAPES, TEXT, VOCABULARY

Make = Callable[[ModelConfig], GPT]
PROMPT = "The duck wrote"
# What each architecture of llama.cpp can hold, at its edges.
KINDS = {
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
@pytest.mark.parametrize("what", KINDS)
def test_llama_cpp_goes_on_with_the_same_tokens(
    tmp_path: Path, make: Make, greedy: Any, tokenizer: HFTokenizer, llama: Any, what: str, dtype: str
) -> None:
    config, kind = KINDS[what]
    model, path = make(config), tmp_path / "model.gguf"
    with torch.no_grad():  # only numbers that half precision holds: what is asked is whether the model is the same
        for p in model.parameters():
            p.copy_(p.half())
    assert gguf.write_gguf(path, model, tokenizer, dtype, "model") == kind
    prompt = tokenizer.encode(PROMPT).tolist()
    theirs = llama(path)
    assert theirs.tokens(PROMPT) == prompt
    assert theirs.greedy(prompt, 64) == greedy(model, prompt, 64, never=tokenizer.end_of_text)


def test_rounded_to_eight_bits_it_still_runs(tmp_path: Path, make: Make, tokenizer: HFTokenizer, llama: Any) -> None:
    model, path = make(MODERN), tmp_path / "model.gguf"
    gguf.write_gguf(path, model, tokenizer, "q8_0", "model")
    assert len(llama(path).greedy(tokenizer.encode(PROMPT).tolist(), 16)) == 16
    exact = tmp_path / "exact.gguf"
    gguf.write_gguf(exact, model, tokenizer, "f32", "model")
    assert path.stat().st_size < 0.45 * exact.stat().st_size


@pytest.mark.parametrize("dtype", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("what", KINDS)
def test_what_is_written_comes_back(tmp_path: Path, make: Make, tokenizer: HFTokenizer, what: str, dtype: str) -> None:
    config, kind = KINDS[what]
    model, path = make(config), tmp_path / "model.gguf"
    gguf.write_gguf(path, model, tokenizer, dtype, "model")
    found = gguf.read_gguf(path)
    assert found.kind == kind
    held = compatibility.make_compatible(config, weights_of(model), gguf.GGUF_ARCHITECTURES[kind].parts(config))
    assert compatibility.resolved_settings(found.model) == compatibility.resolved_settings(held.model)
    assert found.tokenizer.to_json()["model"] == tokenizer.to_json()["model"]
    parity = gguf.check_gguf(path, model, tokenizer, dtype)
    if dtype == "f32":
        assert all(torch.equal(found.weights[name], weight) for name, weight in held.weights.items())
        assert parity.difference < 1e-4
    else:
        assert 1e-4 < parity.difference < 0.1 * parity.largest


def test_a_width_that_blocks_do_not_divide_is_kept_in_half_precision(
    tmp_path: Path, make: Make, tokenizer: HFTokenizer
) -> None:
    model, path = make(replace(MODERN, mlp_width=72)), tmp_path / "model.gguf"
    gguf.write_gguf(path, model, tokenizer, "q8_0", "model")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in library.GGUFReader(path).tensors}
    assert (kinds["blk.0.ffn_down.weight"], kinds["blk.0.ffn_up.weight"]) == ("F16", "Q8_0")
    assert (kinds["output_norm.weight"], kinds["token_embd.weight"]) == ("F32", "Q8_0")
    gguf.check_gguf(path, model, tokenizer, "q8_0")


def test_numbers_too_large_for_half_precision_are_named(tmp_path: Path, make: Make, tokenizer: HFTokenizer) -> None:
    model = make(MODERN)
    with torch.no_grad():
        model.embed.weight[7, 3] = 1e6
    gguf.write_gguf(tmp_path / "model.gguf", model, tokenizer, "f16", "model")
    with pytest.raises(UserError, match=r"'embed\.weight' does not fit into f16") as caught:
        gguf.check_gguf(tmp_path / "model.gguf", model, tokenizer, "f16")
    assert "--dtype f32" in caught.value.hint


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4"])
def test_llama_cpp_cuts_text_as_we_do(tmp_path: Path, make: Make, llama: Any, pattern: str) -> None:
    tokenizer = HFTokenizer.train([TEXT], VOCABULARY, "<|endoftext|>", pattern=pattern)
    gguf.write_gguf(tmp_path / "model.gguf", make(MODERN), tokenizer, "f16", "model")
    theirs = llama(tmp_path / "model.gguf")
    for text in (TEXT, "  a\n\n\nb\t c 1234567 'S it'S IT'LL 日本 🦆 naïve\r\n x", "1 22 333 4444", "\n", " ", "café"):
        assert theirs.tokens(text) == tokenizer.encode(text).tolist()


@pytest.mark.parametrize("rule", ["llama-bpe", "qwen2", "smollm"])
def test_the_rules_of_known_models_are_known_by_name(
    tmp_path: Path, make: Make, tokenizer: HFTokenizer, llama: Any, rule: str
) -> None:
    content = tokenizer.to_json()
    content["pre_tokenizer"] = gguf.gguf_tokenizer.SPLIT_RULES[rule].cutter
    content["model"]["ignore_merges"] = rule == "llama-bpe"
    content["normalizer"] = {"type": "NFC"} if rule == "qwen2" else None
    cut = HFTokenizer(content)
    gguf.write_gguf(tmp_path / "model.gguf", make(MODERN), cut, "f16", "model")
    theirs = llama(tmp_path / "model.gguf")
    for text in (TEXT, "1 22 333 4444 it'S 1a2b", "x  y\n\nz"):
        assert theirs.tokens(text) == cut.encode(text).tolist()
    back = gguf.read_gguf(tmp_path / "model.gguf").tokenizer
    assert back.encode(TEXT).tolist() == cut.encode(TEXT).tolist()


def without_end() -> Tokenizer:
    return HFTokenizer.train([TEXT], VOCABULARY)


def of_characters() -> Tokenizer:
    return CharTokenizer.train([TEXT], special="<|endoftext|>")


def cut_otherwise() -> Tokenizer:
    content = HFTokenizer.train([TEXT], VOCABULARY, "<|endoftext|>").to_json()
    content["pre_tokenizer"] = {**content["pre_tokenizer"], "add_prefix_space": True}
    return HFTokenizer(content)


@pytest.mark.parametrize(
    ("made", "why"), [(without_end, "end-of-text"), (of_characters, "characters"), (cut_otherwise, "no name for how")]
)
def test_a_tokenizer_that_llama_cpp_does_not_know_is_refused_with_the_reason(
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
        (replace(MODERN, qkv_bias=True), "model.qk_norm = true", "as qwen2"),
    ],
)
def test_a_model_that_llama_cpp_has_no_code_for_is_refused(
    tmp_path: Path, make: Make, tokenizer: HFTokenizer, config: ModelConfig, words: str, hint: str
) -> None:
    with pytest.raises(UserError) as caught:
        gguf.write_gguf(tmp_path / "model.gguf", make(config), tokenizer, "f32", "model")
    assert words in caught.value.message
    assert hint in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_truncated_file_is_named_wherever_it_ends(tmp_path: Path, make: Make, tokenizer: HFTokenizer) -> None:
    path = tmp_path / "model.gguf"
    gguf.write_gguf(path, make(MODERN), tokenizer, "f16", "model")
    whole = path.read_bytes()
    for kept in (0, 3, 4, 20, 100, 1000, 5000, 15_000, len(whole) // 2, len(whole) - 5000, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(UserError, match=r"model\.gguf"):
            gguf.read_gguf(path)
    path.write_bytes(b"not a GGUF at all, but a text")
    with pytest.raises(UserError, match="no GGUF"):
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
        ("mamba", {}, "architecture that fledge does not know: mamba"),
        ("llama", {}, "lacks llama.block_count"),
        ("llama", {"llama__rope__scaling__type": "yarn"}, "scaled rotary positions"),
        ("llama", {"llama__rope__scaling__factor": 2}, "scaled rotary positions"),
        ("llama", {"llama__rope__scale_linear": 4}, "scaled rotary positions"),
        ("llama", {"llama__rope__scaling__type": "none", "llama__rope__scaling__factor": 2}, "lacks llama.block_count"),
        ("llama", {"llama__rope__scaling__factor": 1}, "lacks llama.block_count"),
    ],
)
def test_files_of_other_models_are_refused_with_what_is_known(
    tmp_path: Path, architecture: str, keys: dict[str, Any], words: str
) -> None:
    write_keys(tmp_path / "model.gguf", architecture, **keys)
    with pytest.raises(UserError, match=words) as caught:
        gguf.read_gguf(tmp_path / "model.gguf")
    assert caught.value.hint


def test_a_foreign_kind_of_tokenizer_asks_for_the_file(tmp_path: Path, make: Make, tokenizer: HFTokenizer) -> None:
    path = tmp_path / "model.gguf"
    model = make(MODERN)
    gguf.write_gguf(path, model, tokenizer, "f32", "model")
    path.write_bytes(path.read_bytes().replace(b"\x05\0\0\0\0\0\0\0gpt-2", b"\x05\0\0\0\0\0\0\0other"))
    with pytest.raises(UserError, match="other") as caught:
        gguf.read_gguf(path)
    assert "--tokenizer" in caught.value.hint
    found = gguf.read_gguf(path, tokenizer)
    assert torch.equal(reference_model(found.model, found.weights).embed.weight, model.embed.weight)
