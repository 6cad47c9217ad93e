"""Checkpoints that are damaged, incomplete, contradictory or of something else: refused, and no code is run."""

import io
import zipfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from fledge.core.errors import UserError
from fledge.exchange.torch_checkpoints.shape import GivenShape

from . import gpt_programs as programs
from .checkpoints import HEADS, SMOL_CONFIG, read, save, smol_gpt, toy_gpt
from .gpt_programs import C, H, L, V, state


def test_heads_of_the_file_cannot_be_contradicted(tmp_path: Path) -> None:
    path = save(tmp_path, smol_gpt(programs.SmolGPT()))
    assert read(path, HEADS).model.n_head == H
    with pytest.raises(UserError, match="has 4 heads, not 8"):
        read(path, GivenShape(n_head=8))


def test_settings_that_contradict_the_tensors_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, smol_gpt(programs.SmolGPT(), N_layer=10**9))
    with pytest.raises(UserError, match=f"says N_layer = {10**9}, but its tensors are those of {L}"):
        read(path)


class Model(nn.Module):
    """Code of a program: saved as a whole, it cannot be opened without that program."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "holds a list"),
        (torch.zeros(2), "holds a Tensor"),
        ({}, "it holds nothing"),
        ({"epoch": 1, "loss": 0.1}, "it holds epoch, loss"),
        ({"model": {"x": 1}}, "it holds model"),
        ({"model_state_dict": {1: torch.zeros(2)}}, "it holds model_state_dict"),
        ({"layers.0.weight": torch.zeros(2, 2)}, "names of no program that fledge knows: 'layers.0.weight'"),
        ({"tok_emb.weight": torch.zeros(2, 2)}, "lacks the tensor 'transformers.0.ff.layers.0.weight'"),
        ({"tok_emb.weight": torch.zeros(2)}, "shape \\[2\\], and is no matrix"),
        ({"model": Model()}, "holds more than tensors \\(.*Model\\)"),
        ({"model": {}, "config": SimpleNamespace(x=Model())}, "holds more than tensors"),
    ],
    ids=str,
)
def test_other_content_is_refused_by_what_it_holds(tmp_path: Path, content: Any, message: str) -> None:
    path = save(tmp_path, content)
    with pytest.raises(UserError, match=message) as caught:
        read(path, HEADS)
    assert caught.value.hint
    assert path in caught.value.message


@cache
def wrong_weights() -> dict[str, Any]:
    good = state(programs.SmallGPT())
    first, norm = "transformers.0.attention.qkv_layer.weight", "layer_norm.weight"
    repeated = torch.zeros(1).expand(good[first].shape)
    return {
        "'layer_norm.weight' is missing": {name: x for name, x in good.items() if name != norm},
        "'transformers.1.norm2.bias' is missing": {k: x for k, x in good.items() if k != "transformers.1.norm2.bias"},
        "'final_layer.bias' is unexpected": {**good, "final_layer.bias": torch.zeros(V)},
        "'extra.weight' is unexpected": {**good, "extra.weight": torch.zeros(3)},
        "'layer_norm.weight' has shape \\[3\\], not \\[32\\]": {**good, norm: torch.zeros(3)},
        "has shape \\[96, 31\\], not \\[96, 32\\]": {**good, first: torch.zeros(96, 31)},
        "holds torch.int64 numbers": {**good, norm: torch.zeros(C, dtype=torch.int64)},
        "is not a dense tensor": {**good, norm: torch.zeros(C).to_sparse()},
        "claims 3,072 numbers and holds 1": {**good, first: repeated},
    }


def test_unequal_copies_of_a_tied_head_are_refused(tmp_path: Path) -> None:
    content = toy_gpt(programs.ToyGPT())
    content["state_dict"]["output_linear.weight"] = content["state_dict"]["output_linear.weight"] + 1
    with pytest.raises(UserError, match=r"'output_linear\.weight' differs from 'embedding\.weight', and"):
        read(save(tmp_path, content))


@pytest.mark.parametrize("missing", ["blocks.0.mha.all_heads.2.W_k.weight", "blocks.1.mha.all_heads.3.W_v.weight"])
def test_missing_head_is_refused(tmp_path: Path, missing: str) -> None:
    weights = state(programs.ScratchEarly())
    del weights[missing]
    with pytest.raises(UserError, match=r"the heads of .* are incomplete, or differ in shape"):
        read(save(tmp_path, weights))


@pytest.mark.parametrize("message", wrong_weights())
def test_wrong_tensors_are_named(tmp_path: Path, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(save(tmp_path, wrong_weights()[message]), HEADS)


def test_compressed_archive_is_refused(tmp_path: Path) -> None:
    """torch.save never compresses; a small file could unpack to any size."""
    path = save(tmp_path, {"tok_emb.weight": torch.zeros(1000, 1000)})
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for member in archive.namelist():
            packed.writestr(member, archive.read(member))
    with pytest.raises(UserError, match="unpack to more than it holds"):
        read(str(tmp_path / "bomb.pt"), HEADS)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A path to write to, and a valid checkpoint."""
    buffer = io.BytesIO()
    torch.save(smol_gpt(programs.SmolGPT()), buffer)
    return tmp_path_factory.mktemp("damaged") / "model.pt", buffer.getvalue()


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=80, deadline=None)
@given(st.data())
def test_damaged_bytes_are_refused_or_harmless(damaged: tuple[Path, bytes], data: st.DataObject) -> None:
    """The pickle is at the beginning of the file and the list of its members at the end."""
    path, complete = damaged
    near = st.integers(0, 4000) | st.integers(len(complete) - 4000, len(complete) - 1)
    content = bytearray(complete)
    for place, value in data.draw(st.lists(st.tuples(near, st.integers(0, 255)), min_size=1, max_size=4)):
        content[place] = value
    path.write_bytes(content[: data.draw(st.just(len(content)) | near)])
    try:
        assert read(str(path)).model.n_embd == C
    except UserError as error:
        assert str(path) in error.message  # noqa: PT017 — most changes are refused, not all
        assert error.hint  # noqa: PT017


PLAIN = (
    st.none() | st.booleans() | st.integers(-3, 10**12) | st.floats() | st.text(max_size=3) | st.just(torch.zeros(2))
)
NESTED = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner))


@settings(max_examples=50, deadline=None)
@example(key="N_layer", value=torch.zeros(2))
@example(key="N_head", value=True)
@given(key=st.sampled_from([*SMOL_CONFIG]), value=NESTED)
def test_any_setting_in_the_file_is_checked(damaged: tuple[Path, bytes], key: str, value: Any) -> None:
    """Wrong types and impossible sizes: an error of one line, or the value is a valid one."""
    path, _ = damaged
    torch.save(smol_gpt(SMALL_MODEL, **{key: value}), path)
    try:
        model = read(str(path)).model
    except UserError as error:
        assert error.hint  # noqa: PT017
    else:
        assert key in ("N_head", "dropout") or value == SMOL_CONFIG[key]
        assert 0 <= model.dropout < 1
        assert C % model.n_head == 0


SMALL_MODEL = programs.SmolGPT()
