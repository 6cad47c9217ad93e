"""Weight names: converting to their names and back gives the same weights."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fledge.checkpoint.state import blank_weights
from fledge.exchange import names
from fledge.exchange.names import Names
from fledge.model.config import ModelConfig

from .conftest import CLASSIC, MODERN

TABLES = {
    "HF_GPT2": CLASSIC,
    "NANOGPT": CLASSIC,
    "GGUF_GPT2": CLASSIC,
    "HF_LLAMA": MODERN,
    "GGUF_LLAMA": replace(MODERN, qk_norm=False),
    "GGUF_QWEN": MODERN,
}


def table(name: str) -> Names:
    found = getattr(names, name)
    assert isinstance(found, Names)
    return found


@given(
    name=st.sampled_from(sorted(TABLES)),
    n_layer=st.integers(1, 12),
    heads=st.sampled_from([(1, 1), (2, 1), (4, 2), (4, 4)]),
    head_dim=st.sampled_from([2, 4, 6]),
    tied=st.booleans(),
    biases=st.booleans(),
)
def test_to_ours_inverts_to_theirs(
    name: str, n_layer: int, heads: tuple[int, int], head_dim: int, tied: bool, biases: bool
) -> None:
    H, K = heads
    shape = {"n_layer": n_layer, "n_head": H, "n_embd": H * head_dim, "tied": tied, "mlp_width": 10, "vocab_size": 7}
    grouped = {"n_kv_head": K, "head_dim": head_dim} if TABLES[name].positions == "rotary" else {}
    config = replace(TABLES[name], qkv_bias=biases, output_bias=biases, mlp_bias=biases, **{**shape, **grouped})
    generator = torch.Generator().manual_seed(n_layer)
    weights = {name: torch.rand(blank.shape, generator=generator) for name, blank in blank_weights(config).items()}
    theirs = names.to_theirs(weights, config, table(name))
    assert sum(tensor.numel() for tensor in theirs.values()) == sum(tensor.numel() for tensor in weights.values())
    back = names.to_ours(theirs, config, table(name))
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)


@pytest.mark.parametrize("name", TABLES)
def test_to_theirs_works_on_meta_tensors(name: str) -> None:
    blanks = names.to_theirs(blank_weights(TABLES[name]), TABLES[name], table(name))
    assert all(tensor.is_meta for tensor in blanks.values())


def test_weight_without_a_row_is_an_assertion_error() -> None:
    config = replace(MODERN, qk_norm=True)
    with pytest.raises(AssertionError, match="query_norm"):
        names.to_theirs(blank_weights(config), config, names.GGUF_LLAMA)


def test_interleaved_layout_pairs_the_halves() -> None:
    config = ModelConfig(n_layer=1, n_head=2, n_embd=8, head_dim=4, vocab_size=3, qk_norm=False)
    weights = {name: torch.zeros(blank.shape) for name, blank in blank_weights(config).items()}
    weights["blocks.0.attention.query.weight"] = torch.arange(8.0).unsqueeze(1).expand(8, 8)
    theirs = names.to_theirs(weights, config, names.GGUF_LLAMA)["blk.0.attn_q.weight"]
    assert theirs[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
