"""Hugging Face folders: reading what transformers wrote, and writing what transformers reads."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fledge.checkpoint.state import weights_of
from fledge.core.errors import UserError
from fledge.exchange import hf_config, huggingface
from fledge.exchange.model_source import local_model_folder
from fledge.exchange.parity import reference_model
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.tokenizers.base import Tokenizer, fingerprint, save_tokenizer
from fledge.tokenizers.char import CharTokenizer
from fledge.tokenizers.hf import HFTokenizer

from .conftest import CLASSIC, MODERN, SHAPES, TEXT, VOCABULARY, randomized

transformers = pytest.importorskip("transformers")

Make = Callable[[ModelConfig], GPT]
IDS = torch.randint(VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(1))


def their_model(name: str, **changed: Any) -> Any:
    """A random model built by transformers, in the shape of one of ours."""
    kind = hf_config.HF_ARCHITECTURES[name]
    unset = {"bos_token_id": None, "eos_token_id": None}
    settings = {**hf_config.config_from_model(SHAPES[name], kind), **unset, **changed}
    config = transformers.AutoConfig.for_model(**settings)
    torch.manual_seed(0)
    return randomized(getattr(transformers, name)(config))


@pytest.fixture
def folder(tmp_path: Path, tokenizer: HFTokenizer) -> Callable[..., Path]:
    def save(theirs: Any, **options: Any) -> Path:
        theirs.save_pretrained(tmp_path / "theirs", **options)
        save_tokenizer(tokenizer, tmp_path / "theirs" / "tokenizer.json")
        return tmp_path / "theirs"

    return save


def edit(path: Path, **changed: Any) -> None:
    content = json.loads(path.read_text())
    content.update(changed)
    path.write_text(json.dumps({key: value for key, value in content.items() if value != "gone"}))


def edit_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@torch.no_grad()
def distance(found: Any, theirs: Any) -> float:
    ours = reference_model(found.model, found.weights)(IDS)
    assert ours.std() > 0.1
    return float((ours - theirs(IDS).logits).abs().max())


def continues_alike(theirs: Any, prompt: list[int], generated: list[int]) -> bool:
    """Whether each generated token is the most likely one of their model."""
    with torch.no_grad():
        best = theirs(torch.tensor([prompt + generated])).logits[0].argmax(-1)
    return best[len(prompt) - 1 : -1].tolist() == generated


# Import


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", SHAPES)
def test_imported_logits_and_text_equal_transformers(
    folder: Callable[..., Path], greedy: Any, name: str, tied: bool
) -> None:
    theirs = their_model(name, tie_word_embeddings=tied)
    found = huggingface.read_hf_folder(local_model_folder(folder(theirs)))
    assert (found.architecture, found.model.tied) == (name, tied)
    assert distance(found, theirs) < 1e-4
    prompt = IDS[0, :12].tolist()
    assert continues_alike(theirs, prompt, greedy(reference_model(found.model, found.weights), prompt, 64))


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("GPT2LMHeadModel", {"activation_function": "gelu"}),
        ("GPT2LMHeadModel", {"activation_function": "relu"}),
        ("GPT2LMHeadModel", {"activation_function": "gelu_pytorch_tanh"}),
        ("GPT2LMHeadModel", {"n_inner": 80, "layer_norm_epsilon": 1e-3}),
        ("LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True}),
        ("LlamaForCausalLM", {"num_key_value_heads": 4}),
        ("LlamaForCausalLM", {"num_key_value_heads": 1}),
        ("MistralForCausalLM", {"sliding_window": None}),
        ("MistralForCausalLM", {"sliding_window": 4096}),
        ("Qwen3ForCausalLM", {"attention_bias": True}),
        ("Qwen3ForCausalLM", {"rms_norm_eps": 1e-2}),
    ],
    ids=str,
)
def test_options_of_a_class_are_read_from_the_config(
    folder: Callable[..., Path], name: str, changed: dict[str, Any]
) -> None:
    theirs = their_model(name, **changed)
    assert distance(huggingface.read_hf_folder(local_model_folder(folder(theirs))), theirs) < 1e-4


def test_old_gpt2_files_give_the_same_logits(folder: Callable[..., Path]) -> None:
    """As in GPT-2's files on the Hub: names without prefix, masks among the weights, few keys in the config."""
    theirs = their_model("GPT2LMHeadModel")
    where = folder(theirs)
    config = {"n_inner": "gone", "tie_word_embeddings": "gone", "activation_function": "gone", "n_ctx": 96}
    edit(where / "config.json", **config)

    def age(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors |= {f"h.{i}.attn.bias": torch.ones(1, 1, 96, 96).tril() for i in range(2)}

    edit_tensors(where / "model.safetensors", age)
    assert distance(huggingface.read_hf_folder(local_model_folder(where)), theirs) < 1e-4


def test_old_key_of_the_rotary_base_is_read(folder: Callable[..., Path]) -> None:
    theirs = their_model("LlamaForCausalLM")
    where = folder(theirs)
    edit(where / "config.json", rope_parameters="gone", rope_theta=5e5, rope_scaling=None)
    assert distance(huggingface.read_hf_folder(local_model_folder(where)), theirs) < 1e-4


def test_stored_copy_of_a_tied_head_is_accepted(folder: Callable[..., Path]) -> None:
    theirs = their_model("Qwen3ForCausalLM", tie_word_embeddings=True)
    where = folder(theirs)
    embed = "model.embed_tokens.weight"
    edit_tensors(where / "model.safetensors", lambda x: x.update({"lm_head.weight": x[embed].clone()}))
    assert distance(huggingface.read_hf_folder(local_model_folder(where)), theirs) < 1e-4
    edit_tensors(where / "model.safetensors", lambda x: x.update({"lm_head.weight": x[embed] + 1}))
    with pytest.raises(UserError, match=r"'lm_head\.weight' differs from '.*', and this model has one"):
        huggingface.read_hf_folder(local_model_folder(where))


def test_sharded_weights_are_joined(folder: Callable[..., Path]) -> None:
    theirs = their_model("LlamaForCausalLM")
    where = folder(theirs, max_shard_size="100KB")
    parts = sorted(where.glob("model-*.safetensors"))
    assert len(parts) > 2
    assert distance(huggingface.read_hf_folder(local_model_folder(where)), theirs) < 1e-4
    parts[1].unlink()
    with pytest.raises(UserError, match=parts[1].name):
        huggingface.read_hf_folder(local_model_folder(where))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_exactly_as_fp32(folder: Callable[..., Path], dtype: torch.dtype) -> None:
    where = folder(their_model("LlamaForCausalLM").to(dtype))
    assert {tensor.dtype for tensor in load_file(where / "model.safetensors").values()} == {dtype}
    found = huggingface.read_hf_folder(local_model_folder(where))
    assert {tensor.dtype for tensor in found.weights.values()} == {torch.float32}
    theirs = transformers.AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32)
    assert distance(found, theirs.eval()) < 1e-4


def test_pytorch_file_is_loaded_without_running_code(folder: Callable[..., Path], tmp_path: Path) -> None:
    theirs = their_model("LlamaForCausalLM")
    where = folder(theirs)
    (where / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), where / "pytorch_model.bin")
    assert distance(huggingface.read_hf_folder(local_model_folder(where)), theirs) < 1e-4

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"x": Trap()}, where / "pytorch_model.bin")
    with pytest.raises(UserError, match="more than tensors"):
        huggingface.read_hf_folder(local_model_folder(where))
    (where / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Trap()}, protocol=2))
    with pytest.raises(UserError, match=r"pytorch_model\.bin"):
        huggingface.read_hf_folder(local_model_folder(where))
    assert not (tmp_path / "sprung").exists()


def test_model_vocabulary_may_be_larger_than_the_tokenizers(
    folder: Callable[..., Path], tokenizer: HFTokenizer
) -> None:
    found = huggingface.read_hf_folder(local_model_folder(folder(their_model("LlamaForCausalLM", vocab_size=320))))
    assert (found.model.vocab_size, found.tokenizer.vocab_size) == (320, 300)
    with pytest.raises(UserError, match="the tokenizer has 300 tokens, but the model has 299"):
        huggingface.read_hf_folder(local_model_folder(folder(their_model("LlamaForCausalLM", vocab_size=299))))


def test_vocab_and_merges_give_the_same_tokenizer(folder: Callable[..., Path], tokenizer: HFTokenizer) -> None:
    where = folder(their_model("GPT2LMHeadModel"))
    model = tokenizer.to_json()["model"]
    (where / "tokenizer.json").unlink()
    (where / "vocab.json").write_text(json.dumps(model["vocab"]))
    (where / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, model["merges"])) + "\n")
    found = huggingface.read_hf_folder(local_model_folder(where)).tokenizer
    assert fingerprint(found) == fingerprint(tokenizer)
    (where / "merges.txt").write_text("#version: 0.2\nno such\n")
    with pytest.raises(UserError, match=r"merges\.txt"):
        huggingface.read_hf_folder(local_model_folder(where))


def test_vocab_and_merges_need_a_known_pre_tokenizer(folder: Callable[..., Path], tokenizer: HFTokenizer) -> None:
    where = folder(their_model("LlamaForCausalLM"))
    model = tokenizer.to_json()["model"]
    (where / "tokenizer.json").unlink()
    (where / "vocab.json").write_text(json.dumps(model["vocab"]))
    (where / "merges.txt").write_text("\n".join(map(" ".join, model["merges"])))
    with pytest.raises(UserError, match=r"no tokenizer\.json") as caught:
        huggingface.read_hf_folder(local_model_folder(where))
    assert "--tokenizer" in caught.value.hint
    assert huggingface.read_hf_folder(local_model_folder(where), tokenizer).tokenizer is tokenizer
    (where / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    assert fingerprint(huggingface.read_hf_folder(local_model_folder(where)).tokenizer) == fingerprint(tokenizer)


# Refused


def test_missing_unexpected_and_misshapen_tensors_are_named(folder: Callable[..., Path]) -> None:
    where = folder(their_model("LlamaForCausalLM"))

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["model.layers.1.mlp.up_proj.weight"]
        tensors["model.layers.7.mlp.up_proj.weight"] = torch.zeros(1)
        tensors["model.norm.weight"] = torch.zeros(63)
        tensors["model.layers.0.input_layernorm.weight"] = torch.zeros(64, dtype=torch.int8)

    edit_tensors(where / "model.safetensors", spoil)
    with pytest.raises(UserError) as caught:
        huggingface.read_hf_folder(local_model_folder(where))
    for words in (
        "'model.layers.1.mlp.up_proj.weight' is missing",
        "'model.layers.7.mlp.up_proj.weight' is unexpected",
        "'model.norm.weight' has shape [63], not [64]",
        "'model.layers.0.input_layernorm.weight' holds torch.int8 numbers",
    ):
        assert words in caught.value.message


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"model.norm.weight": torch.ones(64).to_sparse()},
            "'model.norm.weight' is not a dense tensor",
        ),
        ({"lm_head.weight": torch.empty(300, 64, device="meta")}, "'lm_head.weight' is not a dense tensor"),
        ({7: torch.ones(64)}, "is not a dictionary of tensors"),
    ],
)
def test_sparse_meta_and_unnamed_tensors_are_refused(
    folder: Callable[..., Path], changed: dict[Any, torch.Tensor], words: str
) -> None:
    theirs = their_model("LlamaForCausalLM", tie_word_embeddings=True)
    where = folder(theirs)
    (where / "model.safetensors").unlink()
    torch.save({**theirs.state_dict(), **changed}, where / "pytorch_model.bin")
    with pytest.raises(UserError) as caught:
        huggingface.read_hf_folder(local_model_folder(where))
    assert words in caught.value.message


@pytest.mark.parametrize("kept", [0, 5, 100, 50_000, -1])
def test_truncated_file_is_refused_by_name(folder: Callable[..., Path], kept: int) -> None:
    where = folder(their_model("LlamaForCausalLM"))
    path = where / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"model\.safetensors' is damaged"):
        huggingface.read_hf_folder(local_model_folder(where))


@pytest.mark.parametrize("gone", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_file_is_named(folder: Callable[..., Path], gone: str) -> None:
    where = folder(their_model("LlamaForCausalLM"))
    (where / gone).unlink()
    with pytest.raises(UserError, match=gone.partition(".")[0] if gone != "model.safetensors" else "no weights"):
        huggingface.read_hf_folder(local_model_folder(where))


@pytest.mark.parametrize(
    "index", [b"", b"[]", b"{}", b'{"weight_map": {"x": 7}}', b'{"weight_map": {"x": "../secret"}}']
)
def test_invalid_index_is_refused(folder: Callable[..., Path], index: bytes) -> None:
    where = folder(their_model("LlamaForCausalLM"))
    (where / "model.safetensors").rename(where.parent / "secret")
    (where / "model.safetensors.index.json").write_bytes(index)
    with pytest.raises(UserError):
        huggingface.read_hf_folder(local_model_folder(where))


# Export


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "Qwen2ForCausalLM"])
def test_import_then_export_is_bit_identical(
    folder: Callable[..., Path], tmp_path: Path, tokenizer: HFTokenizer, name: str
) -> None:
    where = folder(their_model(name))
    found = huggingface.read_hf_folder(local_model_folder(where))
    (tmp_path / "out").mkdir()
    assert (
        huggingface.write_hf_folder(tmp_path / "out", reference_model(found.model, found.weights), found.tokenizer)
        == name
    )
    before, after = load_file(where / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[tensor], after[tensor]) for tensor in before)


EXPRESSIBLE = {
    **{name: (config, name) for name, config in SHAPES.items() if name != "Qwen2ForCausalLM"},
    "a bias of queries alone": (SHAPES["Qwen2ForCausalLM"], "LlamaForCausalLM"),
    "a bias of the MLP alone": (replace(MODERN, qk_norm=False, mlp_bias=True), "LlamaForCausalLM"),
    "GPT-2 without biases": (
        replace(CLASSIC, qkv_bias=False, output_bias=False, mlp_bias=False, norm_bias=False, mlp="gelu"),
        "GPT2LMHeadModel",
    ),
    "squared": (replace(CLASSIC, mlp="relu2", tied=False), "GPT2LMHeadModel"),
    "tied": (replace(MODERN, tied=True), "Qwen3ForCausalLM"),
    "padded": (replace(MODERN, vocab_size=320), "Qwen3ForCausalLM"),
}


@pytest.mark.parametrize("what", EXPRESSIBLE)
def test_transformers_gives_the_same_logits_and_text(
    tmp_path: Path, make: Make, greedy: Any, tokenizer: HFTokenizer, what: str
) -> None:
    config, name = EXPRESSIBLE[what]
    model = make(config)
    assert huggingface.write_hf_folder(tmp_path, model, tokenizer) == name
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(theirs).__name__ == name
    with torch.no_grad():
        assert float((theirs.eval()(IDS).logits - model.eval()(IDS)).abs().max()) < 1e-4
    prompt = IDS[0, :12].tolist()
    assert continues_alike(theirs, prompt, greedy(model, prompt, 64))


def test_generate_of_transformers_gives_the_same_tokens(
    tmp_path: Path, make: Make, greedy: Any, tokenizer: HFTokenizer
) -> None:
    model = make(MODERN)
    huggingface.write_hf_folder(tmp_path, model, tokenizer)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    theirs.generation_config.eos_token_id = None  # never stop early
    generated = theirs.generate(IDS[:1, :12], do_sample=False, max_new_tokens=64, pad_token_id=0)[0, 12:]
    assert greedy(model, IDS[0, :12].tolist(), 64) == generated.tolist()


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "Qwen3ForCausalLM", "LlamaForCausalLM", "MistralForCausalLM"])
@pytest.mark.parametrize("kind", ["gpt2", "gpt4", "char", "no end-of-text"])
def test_exported_tokenizer_gives_the_same_ids(tmp_path: Path, make: Make, name: str, kind: str) -> None:
    tokenizer: Tokenizer = {
        "gpt2": lambda: HFTokenizer.train([TEXT], VOCABULARY, "<|endoftext|>"),
        "gpt4": lambda: HFTokenizer.train([TEXT], VOCABULARY, "<|endoftext|>", pattern="gpt4"),
        "char": lambda: CharTokenizer.train([TEXT], special="<|endoftext|>"),
        "no end-of-text": lambda: HFTokenizer.train([TEXT], VOCABULARY),
    }[kind]()
    huggingface.write_hf_folder(tmp_path, make(SHAPES[name]), tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "The duck wrote 12345 letters.\n\nOnce, it's  café!"
    ids = tokenizer.encode(text).tolist()
    assert theirs(text)["input_ids"] == ids
    assert theirs.decode(ids) == text
    assert theirs.eos_token_id == tokenizer.end_of_text


@pytest.mark.parametrize("with_transformers", [True, False])
def test_check_finds_a_changed_weight(
    tmp_path: Path, make: Make, tokenizer: HFTokenizer, monkeypatch: pytest.MonkeyPatch, with_transformers: bool
) -> None:
    if not with_transformers:
        monkeypatch.setattr(huggingface, "_import_transformers", lambda _: None)
    model = make(MODERN)
    kind = huggingface.write_hf_folder(tmp_path, model, tokenizer)
    parity = huggingface.check_hf_folder(tmp_path, model, tokenizer, kind)
    assert parity.checked_with.startswith("transformers" if with_transformers else "fledge")
    assert 0 <= parity.difference < 1e-4 < parity.largest
    edit_tensors(tmp_path / "model.safetensors", lambda tensors: tensors["model.norm.weight"].mul_(1.01))
    with pytest.raises(UserError, match="differ"):
        huggingface.check_hf_folder(tmp_path, model, tokenizer, kind)


def test_check_finds_a_different_tokenizer(
    tmp_path: Path, make: Make, tokenizer: HFTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(MODERN)
    kind = huggingface.write_hf_folder(tmp_path, model, tokenizer)
    other = HFTokenizer.train(["another text, about another thing"], 280, "<|endoftext|>", exact=False)
    with pytest.raises(UserError, match="encodes a text differently"):
        huggingface.check_hf_folder(tmp_path, model, other, kind)
    monkeypatch.setattr(huggingface, "_import_transformers", lambda _: None)
    with pytest.raises(UserError, match="written tokenizer"):
        huggingface.check_hf_folder(tmp_path, model, other, kind)


def test_missing_transformers_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> None:
        raise ImportError

    monkeypatch.setattr(huggingface.importlib, "import_module", absent)
    assert huggingface._import_transformers("Qwen3ForCausalLM") is None


def test_unsupported_model_is_refused_with_settings_that_work(
    tmp_path: Path, make: Make, tokenizer: HFTokenizer
) -> None:
    with pytest.raises(UserError) as caught:
        huggingface.write_hf_folder(tmp_path, make(replace(MODERN, block="norm_in_out", softcap=15.0)), tokenizer)
    assert "model.block = norm_in_out, model.softcap = 15.0" in caught.value.message
    assert "--model.block pre_norm --model.softcap null" in caught.value.hint
    assert "Qwen3ForCausalLM" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_width_not_divisible_by_heads_is_refused_for_gpt2(tmp_path: Path, make: Make, tokenizer: HFTokenizer) -> None:
    with pytest.raises(UserError) as caught:
        huggingface.write_hf_folder(tmp_path, make(replace(CLASSIC, n_embd=67, head_dim=16)), tokenizer)
    assert caught.value.message.endswith("model.n_embd = 67")
    assert "--model.n_embd 64" in caught.value.hint


def test_exported_weights_are_those_of_the_model(tmp_path: Path, make: Make, tokenizer: HFTokenizer) -> None:
    model = make(MODERN)
    huggingface.write_hf_folder(tmp_path, model, tokenizer)
    written = sum(tensor.numel() for tensor in load_file(tmp_path / "model.safetensors").values())
    assert written == sum(tensor.numel() for tensor in weights_of(model).values())
