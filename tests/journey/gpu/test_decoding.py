"""Every path of the decoder on a GPU: the model's logits, for any lengths, with graphs captured on the way."""

import pytest
import torch

from fledge.core.device import DTYPES, Machine
from fledge.inference.choose_decoder import GRAPHS, Path, build_decoder, choose_decoder
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build

V, CONTEXT = 300, 600
MODERN = ModelConfig(n_layer=2, n_head=4, n_kv_head=2, n_embd=128, context=CONTEXT, vocab_size=V, bigram_rows=1000)
MODELS = {
    "modern": MODERN,
    "window": ModelConfig(n_layer=2, n_head=4, n_embd=128, context=CONTEXT, vocab_size=V, window=40),
    "gpt2": ModelConfig(
        n_layer=2,
        n_head=4,
        n_embd=128,
        context=CONTEXT,
        vocab_size=V,
        positions="learned",
        norm="layernorm",
        mlp="gelu_tanh",
        qk_norm=False,
        qkv_bias=True,
        mlp_bias=True,
        tied=True,
    ),
}
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.02}


def make_model(name: str, device: str) -> GPT:
    model, generator = build(MODELS[name], 0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.normal_(0, 0.1, generator=generator)
    return model.to(device).eval()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["plain", *GRAPHS])
def test_ragged_rows_equal_the_model(machine: Machine, kind: str, name: str) -> None:
    """Five rows of six slots, across the borders of the buckets of lengths."""
    if machine.device == "cpu":
        kind = "plain"
    if "flash" in kind and machine.dtype == "float32":
        pytest.skip("FlashAttention needs 16 bits")
    model = make_model(name, machine.device)
    decoder = build_decoder(model, Path(kind, machine.dtype, machine.threads), 6)
    ids = torch.randint(V, (5, CONTEXT), generator=torch.Generator().manual_seed(1)).to(machine.device)
    with torch.no_grad():
        expected = model(ids)
    starts = [0, 250, 30, 3, CONTEXT - 8]
    decoder.prefill(5, 0, ids[0, :20])
    for slot, start in enumerate(starts):
        if start:
            decoder.prefill(slot, 0, ids[slot, : start // 2])
            decoder.prefill(slot, start // 2, ids[slot, start // 2 : start])
    for step in range(8):
        lengths = [start + step for start in starts]
        rows = 5 if step < 5 else 2  # another graph, and lengths that the device does not know
        logits = decoder.decode(torch.stack([ids[r, lengths[r]] for r in range(rows)]), lengths[:rows])
        for row in range(rows):
            wanted = expected[row, lengths[row]]
            assert float((logits[row].float() - wanted).norm() / wanted.norm()) < TOLERANCE[machine.dtype]
    hidden = decoder.prefill(5, 20, ids[0, 20:21])  # the last slot was left alone
    wanted = expected[0, 20]
    assert float((decoder.head(hidden)[0].float() - wanted).norm() / wanted.norm()) < TOLERANCE[machine.dtype]


def test_choice_takes_a_path_that_computes_the_same(machine: Machine) -> None:
    model = make_model("modern", machine.device)
    decoder = choose_decoder(model, machine, 2, machine.dtype)
    ids = torch.randint(V, (9,), generator=torch.Generator().manual_seed(1)).to(machine.device)
    decoder.prefill(0, 0, ids[:8])
    found = decoder.decode(ids[8:], [8])[0].float()
    with torch.no_grad():
        wanted = model(ids[None])[0, -1]
    assert float((found - wanted).norm() / wanted.norm()) < TOLERANCE[machine.dtype]
    assert DTYPES[machine.dtype] != torch.float32 or "float32" in decoder.name
