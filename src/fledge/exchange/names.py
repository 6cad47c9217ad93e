"""What other programs call our weights: one table for each way of naming, used in both directions.

A row pairs one of their modules with ours; its weight and its bias follow. N is the number of a block. Where a row
names several of ours, theirs holds them one below the other. Where the numbers themselves lie otherwise, it says how:

    turned    [in, out] instead of [out, in]
    paired    rotary pairs are neighbours (0,1) (2,3) … instead of halves (0,D/2) (1,D/2+1) …

Reads and writes no files, and knows nothing of what else a model is made of (parts.py).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fledge.checkpoint.state import Tensors
from fledge.model.config import ModelConfig

SUFFIXES = (".weight", ".bias")


@dataclass(frozen=True)
class Layout:
    """How numbers lie, and how they come to lie there: both take a weight or a bias, and the width of a head."""

    to_theirs: Callable[[Tensor, int], Tensor]
    to_ours: Callable[[Tensor, int], Tensor]


def _turn(x: Tensor, _: int) -> Tensor:
    return x.t()  # a bias has one dimension, and stays as it is


def _pair(x: Tensor, D: int) -> Tensor:
    """[heads · D, …], each head in halves → each head in pairs."""
    return x.unflatten(0, (-1, 2, D // 2)).transpose(1, 2).flatten(0, 2)


def _halve(x: Tensor, D: int) -> Tensor:
    return x.unflatten(0, (-1, D // 2, 2)).transpose(1, 2).flatten(0, 2)


SAME = Layout(lambda x, _: x, lambda x, _: x)
TRANSPOSED = Layout(_turn, _turn)
INTERLEAVED = Layout(_pair, _halve)


@dataclass(frozen=True)
class NameRow:
    theirs: str
    ours: tuple[str, ...]
    layout: Layout = SAME


@dataclass(frozen=True)
class Names:
    rows: tuple[NameRow, ...]
    prefix: str = ""  # of all names but the head's; left out in files of a model that was saved without its head
    not_weights: str = "$^"  # a pattern: masks and angles that some files carry along

    def unrolled(self, n_layer: int) -> Iterator[NameRow]:
        """The same rows with every block's number in the place of N."""
        for row in self.rows:
            if ".N." not in row.theirs:
                yield row
                continue
            for n in range(n_layer):
                ours = tuple(name.replace(".N.", f".{n}.") for name in row.ours)
                yield NameRow(row.theirs.replace(".N.", f".{n}."), ours, row.layout)


def to_theirs(weights: Mapping[str, Tensor], model: ModelConfig, names: Names) -> Tensors:
    """Our weights under their names. Also works on tensors that hold no numbers: then it tells names and shapes."""
    theirs, left = {}, set(weights)
    for row in names.unrolled(model.n_layer):
        for suffix in SUFFIXES:
            ours = [name + suffix for name in row.ours]
            if left.issuperset(ours):
                whole = weights[ours[0]] if len(ours) == 1 else torch.cat([weights[name] for name in ours])
                theirs[row.theirs + suffix] = row.layout.to_theirs(whole, model.head_width)
                left.difference_update(ours)
    assert not left, f"no row for {sorted(left)}"
    return theirs


def to_ours(theirs: Mapping[str, Tensor], model: ModelConfig, names: Names) -> Tensors:
    """The way back, for tensors of which `to_theirs` says that they are complete."""
    weights: Tensors = {}
    for row in names.unrolled(model.n_layer):
        for suffix in SUFFIXES:
            if (whole := theirs.get(row.theirs + suffix)) is not None:
                parts = row.layout.to_ours(whole, model.head_width).chunk(len(row.ours))
                weights |= zip((name + suffix for name in row.ours), parts, strict=True)
    return weights


# Of a block: their module → ours (several, parted by spaces), and how it lies where it lies otherwise.
Block = Mapping[str, str | tuple[str, Layout]]


def _block(theirs: str, ours: Block) -> tuple[NameRow, ...]:
    rows = []
    for name, of in ours.items():
        parts, layout = (of, SAME) if isinstance(of, str) else of
        rows.append(NameRow(theirs + name, tuple(f"blocks.N.{part}" for part in parts.split()), layout))
    return tuple(rows)


QUERY, KEY, VALUE = "attention.query", "attention.key", "attention.value"


def _gpt2(layout: Layout) -> Names:
    """OpenAI's names, which nanoGPT kept; only that OpenAI's matrices lie on their side."""
    block: Block = {
        "ln_1": "attention_norm",
        "attn.c_attn": (f"{QUERY} {KEY} {VALUE}", layout),
        "attn.c_proj": ("attention.output", layout),
        "ln_2": "mlp_norm",
        "mlp.c_fc": ("mlp.up", layout),
        "mlp.c_proj": ("mlp.down", layout),
    }
    outside = (
        NameRow("transformer.wte", ("embed",)),
        NameRow("transformer.wpe", ("positions",)),
        NameRow("transformer.ln_f", ("norm",)),
        NameRow("lm_head", ("head",)),
    )
    return Names(
        (*outside, *_block("transformer.h.N.", block)), "transformer.", r"transformer\.h\.\d+\.attn\.(bias|masked_bias)"
    )


HF_GPT2 = _gpt2(TRANSPOSED)
NANOGPT = _gpt2(SAME)

HF_LLAMA = Names(
    (
        NameRow("model.embed_tokens", ("embed",)),
        NameRow("model.norm", ("norm",)),
        NameRow("lm_head", ("head",)),
        *_block(
            "model.layers.N.",
            {
                "input_layernorm": "attention_norm",
                "self_attn.q_proj": QUERY,
                "self_attn.k_proj": KEY,
                "self_attn.v_proj": VALUE,
                "self_attn.o_proj": "attention.output",
                "self_attn.q_norm": "attention.query_norm",
                "self_attn.k_norm": "attention.key_norm",
                "post_attention_layernorm": "mlp_norm",
                "mlp.gate_proj": "mlp.gate",
                "mlp.up_proj": "mlp.up",
                "mlp.down_proj": "mlp.down",
            },
        ),
    ),
    "model.",
    r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
)


def _gguf(attention: Block) -> Names:
    outside = (
        NameRow("token_embd", ("embed",)),
        NameRow("position_embd", ("positions",)),
        NameRow("output_norm", ("norm",)),
        NameRow("output", ("head",)),
    )
    block: Block = {
        "attn_norm": "attention_norm",
        **attention,
        "attn_output": "attention.output",
        "ffn_norm": "mlp_norm",
        "ffn_gate": "mlp.gate",
        "ffn_up": "mlp.up",
        "ffn_down": "mlp.down",
    }
    return Names((*outside, *_block("blk.N.", block)))


GGUF_GPT2 = _gguf({"attn_qkv": f"{QUERY} {KEY} {VALUE}"})
GGUF_LLAMA = _gguf({"attn_q": (QUERY, INTERLEAVED), "attn_k": (KEY, INTERLEAVED), "attn_v": VALUE})
GGUF_QWEN = _gguf(
    {
        "attn_q": QUERY,
        "attn_k": KEY,
        "attn_v": VALUE,
        "attn_q_norm": "attention.query_norm",
        "attn_k_norm": "attention.key_norm",
    }
)
