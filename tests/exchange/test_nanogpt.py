"""nanoGPT's ckpt.pt: the same model, read without running code."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fledge.checkpoint.state import weights_of
from fledge.core.errors import UserError
from fledge.exchange import compatibility, hf_config, names
from fledge.exchange.model_source import ExternalModel
from fledge.exchange.parity import reference_model
from fledge.exchange.torch_checkpoints.read import read_torch_model
from fledge.exchange.torch_checkpoints.shape import GivenShape
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.char import CharTokenizer
from fledge.tokenizers.hf import HFTokenizer

from .conftest import CLASSIC, TEXT

transformers = pytest.importorskip("transformers")

Make = Callable[[ModelConfig], GPT]
CHARACTERS = CharTokenizer.train([TEXT])
SIZE = CHARACTERS.vocab_size
ARGS = {"n_layer": 2, "n_head": 4, "n_embd": 64, "block_size": 96, "bias": False, "vocab_size": SIZE, "dropout": 0.1}


def read(path: Path, tokenizer: Tokenizer | None) -> ExternalModel:
    return read_torch_model(path, str(path), tokenizer, GivenShape())


def checkpoint(model: GPT, prefix: str = "", **changed: Any) -> dict[str, Any]:
    """As nanoGPT saves it: the weights, the tied head twice, a mask, and other state."""
    weights = names.to_theirs(weights_of(model), model.config, names.NANOGPT)
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    weights["transformer.h.0.attn.bias"] = torch.ones(1, 1, 96, 96).tril()
    return {
        "model": {prefix + name: tensor for name, tensor in weights.items()},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]},
        "model_args": {**ARGS, **changed},
        "iter_num": 3,
        "best_val_loss": torch.tensor(1.5),
        "config": {"dataset": "shakespeare_char", "compile": False},
    }


def shape(bias: bool) -> ModelConfig:
    biases = dict.fromkeys(("qkv_bias", "output_bias", "mlp_bias", "norm_bias"), bias)
    return replace(CLASSIC, vocab_size=SIZE, mlp="gelu", **biases)


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("bias", [True, False])
def test_imported_logits_equal_transformers(tmp_path: Path, make: Make, bias: bool, prefix: str) -> None:
    """Compared with GPT-2 in transformers, with nanoGPT's activation and zeros for missing biases."""
    model = make(shape(bias))
    torch.save(checkpoint(model, prefix, bias=bias), tmp_path / "ckpt.pt")
    found = read(tmp_path / "ckpt.pt", CHARACTERS)
    assert compatibility.resolved_settings(found.model) == compatibility.resolved_settings(
        replace(shape(bias), dropout=0.1)
    )
    compatible = compatibility.make_compatible(
        model.config, weights_of(model), hf_config.GPT2.constraints_of(model.config)
    )
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**hf_config.config_from_model(compatible.model, hf_config.GPT2))
    )
    theirs.load_state_dict(names.to_theirs(compatible.weights, compatible.model, names.HF_GPT2), strict=False)
    ids = torch.randint(SIZE, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = reference_model(found.model, found.weights)(ids)
        assert ours.std() > 0.1
        assert float((ours - theirs.eval()(ids).logits).abs().max()) < 1e-4


def test_missing_bias_argument_means_biases(tmp_path: Path, make: Make) -> None:
    content = checkpoint(make(shape(True)))
    del content["model_args"]["bias"]
    torch.save(content, tmp_path / "ckpt.pt")
    assert read(tmp_path / "ckpt.pt", CHARACTERS).model.qkv_bias


def test_complete_vocabulary_must_be_given(tmp_path: Path, make: Make) -> None:
    torch.save(checkpoint(make(shape(False))), tmp_path / "ckpt.pt")
    (tmp_path / "meta.pkl").write_bytes(b"cos\nsystem\n(S'touch sprung'\ntR.")
    with pytest.raises(UserError, match="does not contain its vocabulary") as caught:
        read(tmp_path / "ckpt.pt", None)
    assert "--characters" in caught.value.hint
    assert "--tokenizer" in caught.value.hint
    with pytest.raises(UserError, match=f"2 different characters, but the model has {SIZE}"):
        read(tmp_path / "ckpt.pt", CharTokenizer.train(["ab"]))
    with pytest.raises(UserError, match=f"300 tokens, but the model has {SIZE}"):
        read(tmp_path / "ckpt.pt", HFTokenizer.train([TEXT], 300, "<|endoftext|>"))


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_pickle_with_code_is_refused_without_running_it(tmp_path: Path, make: Make) -> None:
    content = {**checkpoint(make(shape(False))), "config": Trap(tmp_path / "sprung")}
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(UserError, match="more than tensors") as caught:
        read(tmp_path / "ckpt.pt", CHARACTERS)
    assert caught.value.hint
    assert not (tmp_path / "sprung").exists()


def test_truncated_checkpoint_is_refused_by_name(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "ckpt.pt"
    torch.save(checkpoint(make(shape(False))), path)
    complete = path.read_bytes()
    for kept in (0, 10, 1000, len(complete) // 2, len(complete) - 100):
        path.write_bytes(complete[:kept])
        with pytest.raises(UserError, match=r"ckpt\.pt"):
            read(path, CHARACTERS)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "content",
    [
        [],
        torch.zeros(2),
        {"model": {}},
        {"model": {}, "model_args": None},
        {"model": torch.zeros(3, 2), "model_args": ARGS},
        {"model": {}, "model_args": {}},
        {"model": [1], "model_args": ARGS},
        {"model": {"x": 1}, "model_args": ARGS},
        {"model": {}, "model_args": {**ARGS, "n_layer": "two"}},
        {"model": {}, "model_args": {**ARGS, "n_head": 5}},
        {"model": {}, "model_args": ARGS},
    ],
    ids=str,
)
def test_invalid_content_is_refused_by_name(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(UserError, match=r"ckpt\.pt") as caught:
        read(tmp_path / "ckpt.pt", CHARACTERS)
    assert caught.value.hint
