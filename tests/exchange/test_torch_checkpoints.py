"""Checkpoints of other GPT programs: the same logits as re-statements of their models, and the same settings."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fledge.checkpoint.state import blank_weights
from fledge.core.errors import UserError
from fledge.exchange.compatibility import resolved_settings
from fledge.exchange.names import to_theirs
from fledge.exchange.parity import reference_model
from fledge.exchange.torch_checkpoints.contents import Checkpoint
from fledge.exchange.torch_checkpoints.programs import PROGRAMS, Program, recognise
from fledge.exchange.torch_checkpoints.read import read_torch_model
from fledge.exchange.torch_checkpoints.shape import GivenShape, model_config
from fledge.settings.presets import preset_settings
from fledge.tokenizers.char import CharTokenizer

from . import gpt_programs as programs
from .checkpoints import HEADS, NO_HEADS, epochs, read, save, smol_gpt, toy_gpt
from .conftest import randomized
from .gpt_programs import C, L, T, V, state

Case = tuple[str, Callable[[], nn.Module], Callable[[nn.Module], Any], GivenShape]
CASES: dict[str, Case] = {
    "smol-GPT": ("smol-GPT", programs.SmolGPT, smol_gpt, NO_HEADS),
    "smol-GPT with biases": ("smol-GPT", lambda: programs.SmolGPT(bias=True), smol_gpt, NO_HEADS),
    "SmallGPT": ("SmallGPT", programs.SmallGPT, state, HEADS),
    "SmollGPT": ("SmollGPT", programs.SmollGPT, epochs, HEADS),
    "toyGPT": ("toyGPT", programs.ToyGPT, toy_gpt, NO_HEADS),
    "GPT from scratch, character run": ("GPT from scratch", programs.ScratchEarly, epochs, NO_HEADS),
    "GPT from scratch, narrow heads": ("GPT from scratch", lambda: programs.ScratchEarly(head_dim=4), epochs, NO_HEADS),
    "GPT from scratch, FineWeb run": ("GPT from scratch", programs.Scratch, epochs, HEADS),
    "SmallGPT compiled": ("SmallGPT", programs.SmallGPT, lambda model: state(model, "_orig_mod."), HEADS),
}


@pytest.mark.parametrize("case", CASES)
def test_imported_logits_equal_the_restatement(tmp_path: Path, case: str) -> None:
    name, make, content, given = CASES[case]
    torch.manual_seed(0)
    theirs = randomized(make())
    found = read(save(tmp_path, content(theirs)), given)
    assert found.architecture == name
    ids = torch.randint(V, (2, T))
    with torch.no_grad():
        ours, expected = reference_model(found.model, found.weights)(ids), theirs(ids)
    assert expected.std() > 0.1
    assert float((ours - expected).abs().max()) < 1e-5


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 2020"])
def test_half_precision_weights_become_fp32(tmp_path: Path, zipped: bool) -> None:
    weights = {name: tensor.half() for name, tensor in state(programs.SmallGPT()).items()}
    torch.save(weights, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    found = read(str(tmp_path / "model.pt"), HEADS)
    assert {tensor.dtype for tensor in found.weights.values()} == {torch.float32}
    assert torch.equal(found.weights["embed.weight"], weights["tok_emb.weight"].float())


def test_number_of_heads_is_asked_for(tmp_path: Path) -> None:
    path = save(tmp_path, state(programs.SmallGPT()))
    with pytest.raises(UserError, match="does not say how many attention heads") as caught:
        read(path)
    assert "--preset NAME" in caught.value.hint
    assert "--model.n_head N" in caught.value.hint
    assert read(path, GivenShape(n_head=8)).model.n_head == 8
    with pytest.raises(UserError, match="not divisible"):
        read(path, GivenShape(n_head=5))


def test_preset_gives_the_heads_of_its_own_shape_only(tmp_path: Path) -> None:
    path = save(tmp_path, state(programs.SmallGPT()))
    with pytest.raises(UserError, match="preset smallgpt-shakespeare has n_layer = 12, but the model"):
        read(path, GivenShape("smallgpt-shakespeare"))
    with pytest.raises(UserError, match="unknown preset"):
        read(path, GivenShape("smallgtp"))
    preset = tmp_path / "mine.toml"
    preset.write_text(f"[model]\nn_layer = {L}\nn_embd = {C}\nn_head = 2\n")
    assert read(path, GivenShape(str(preset))).model.n_head == 2
    with pytest.raises(UserError, match=r"has 2 heads, and --model\.n_head is 4"):
        read(path, GivenShape(str(preset), 4))


@pytest.mark.parametrize("preset", [name for program in PROGRAMS for name in program.presets])
def test_published_checkpoint_has_the_model_of_its_preset(preset: str) -> None:
    """With every setting, so that training goes on by the rule of the program. No number of heads must be given."""
    program = next(program for program in PROGRAMS if preset in program.presets)
    published = preset_settings(preset)[0].model
    tensors = to_theirs(blank_weights(published), published, program.names)
    assert recognise(tensors, "it") is program
    said = {key: getattr(published, ours) for ours, key in program.saved.items()}
    found = model_config(Checkpoint(tensors, said), program, NO_HEADS, "it")
    assert resolved_settings(found) == resolved_settings(published)
    if "n_head" not in program.saved:
        with pytest.raises(UserError, match="does not say how many attention heads"):
            model_config(Checkpoint(tensors | other_vocabulary(tensors, program), said), program, NO_HEADS, "it")


def other_vocabulary(tensors: dict[str, Any], program: Program) -> dict[str, Any]:
    embed = next(f"{row.theirs}.weight" for row in program.names.rows if row.ours == ("embed",))
    return {embed: torch.empty(99, tensors[embed].shape[1], device="meta")}


@pytest.fixture
def gpt2_files(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (data := os.environ.get("FLEDGE_TEST_DATA")):
        pytest.skip("GPT-2's files are in FLEDGE_TEST_DATA")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", f"{data}/gpt2")


@pytest.mark.usefixtures("gpt2_files")
def test_vocabulary_of_the_published_size_needs_no_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """toyGPT adds two special tokens to those of GPT-2, in this order."""
    monkeypatch.setattr(programs, "V", 50_259)
    path = save(tmp_path, toy_gpt(programs.ToyGPT(), vocab_size=50_259), "model.ckpt")
    tokenizer = read_torch_model(Path(path), path, None, NO_HEADS).tokenizer
    assert tokenizer.vocab_size == 50_259
    special = {token["content"]: token["id"] for token in tokenizer.to_json()["added_tokens"]}
    assert special == {"<|endoftext|>": 50_256, "<pad>": 50_257, "<|startoftext|>": 50_258}
    assert tokenizer.end_of_text == 50_256
    assert tokenizer.encode("First Citizen").tolist() == [5962, 22307]


@pytest.mark.usefixtures("gpt2_files")
def test_smollgpt_has_the_tokens_of_p50k(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "V", 50_281)
    path = save(tmp_path, epochs(programs.SmollGPT()))
    found = read_torch_model(Path(path), path, None, HEADS)
    assert found.tokenizer.vocab_size == found.model.vocab_size == 50_281
    assert len(found.tokenizer.encode("    ")) == 1


def test_other_vocabulary_is_asked_for(tmp_path: Path) -> None:
    path = save(tmp_path, epochs(programs.ScratchEarly()))
    with pytest.raises(UserError, match="does not contain its vocabulary of 61 tokens") as caught:
        read_torch_model(Path(path), path, None, NO_HEADS)
    assert "--characters" in caught.value.hint
    with pytest.raises(UserError, match="2 different characters, but the model has 61"):
        read_torch_model(Path(path), path, CharTokenizer.train(["ab"]), NO_HEADS)
