"""The names of the weights in other programs: one table for each naming scheme, used in both directions.

A row maps one of their modules to ours; it covers the weight and the bias. N is the number of a block. Where a row
names several of our modules, their tensor is the concatenation of ours. A layout says how the numbers are stored
differently:

    transposed    [in, out] instead of [out, in]
    interleaved   rotary pairs are adjacent (0,1) (2,3) … instead of in two halves (0,D/2) (1,D/2+1) …

Reads and writes no files. Which models another program can hold at all is in compatibility.py.
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
    """Conversions between two layouts. Both functions take a weight or a bias, and the head dimension."""

    to_theirs: Callable[[Tensor, int], Tensor]
    to_ours: Callable[[Tensor, int], Tensor]


def _transpose(x: Tensor, _: int) -> Tensor:
    return x.t()  # a bias has one dimension and is unchanged


def _interleave(x: Tensor, D: int) -> Tensor:
    """[heads · D, …]: the two halves of each head → adjacent pairs."""
    return x.unflatten(0, (-1, 2, D // 2)).transpose(1, 2).flatten(0, 2)


def _deinterleave(x: Tensor, D: int) -> Tensor:
    """The inverse of `_interleave`."""
    return x.unflatten(0, (-1, D // 2, 2)).transpose(1, 2).flatten(0, 2)


SAME = Layout(lambda x, _: x, lambda x, _: x)
TRANSPOSED = Layout(_transpose, _transpose)
INTERLEAVED = Layout(_interleave, _deinterleave)


@dataclass(frozen=True)
class NameRow:
    theirs: str
    ours: tuple[str, ...]
    layout: Layout = SAME


@dataclass(frozen=True)
class Names:
    rows: tuple[NameRow, ...]
    prefix: str = ""  # of all names but the head's; absent in files of a model that was saved without its head
    ignored: str = "$^"  # pattern of tensors that are no weights: masks and rotary frequencies in some files

    def unrolled(self, n_layer: int) -> Iterator[NameRow]:
        """The rows with N replaced by the number of each block."""
        for row in self.rows:
            if ".N." not in row.theirs:
                yield row
                continue
            for n in range(n_layer):
                ours = tuple(name.replace(".N.", f".{n}.") for name in row.ours)
                yield NameRow(row.theirs.replace(".N.", f".{n}."), ours, row.layout)


def to_theirs(weights: Mapping[str, Tensor], model: ModelConfig, names: Names) -> Tensors:
    """Our weights with their names and layouts. For meta tensors, the result gives the expected names and shapes."""
    theirs, remaining = {}, set(weights)
    for row in names.unrolled(model.n_layer):
        for suffix in SUFFIXES:
            ours = [name + suffix for name in row.ours]
            if remaining.issuperset(ours):
                joined = _concatenated([weights[name] for name in ours])
                theirs[row.theirs + suffix] = row.layout.to_theirs(joined, model.head_width)
                remaining.difference_update(ours)
    assert not remaining, f"no row for {sorted(remaining)}"
    return theirs


def _concatenated(parts: list[Tensor]) -> Tensor:
    """torch.cat; for meta tensors without its first call, which imports torch's compiler and takes seconds."""
    if len(parts) == 1:
        return parts[0]
    if parts[0].is_meta:
        return parts[0].new_empty((sum(len(part) for part in parts), *parts[0].shape[1:]))
    return torch.cat(parts)


def to_ours(theirs: Mapping[str, Tensor], model: ModelConfig, names: Names) -> Tensors:
    """The inverse of `to_theirs`, for a complete set of tensors."""
    weights: Tensors = {}
    for row in names.unrolled(model.n_layer):
        for suffix in SUFFIXES:
            if (joined := theirs.get(row.theirs + suffix)) is not None:
                parts = row.layout.to_ours(joined, model.head_width).chunk(len(row.ours))
                weights |= zip((name + suffix for name in row.ours), parts, strict=True)
    return weights


# In a block: their module → ours (several, separated by spaces), with the layout if it differs.
BlockNames = Mapping[str, str | tuple[str, Layout]]


def block_rows(prefix: str, block: BlockNames) -> tuple[NameRow, ...]:
    rows = []
    for theirs, value in block.items():
        ours, layout = (value, SAME) if isinstance(value, str) else value
        rows.append(NameRow(prefix + theirs, tuple(f"blocks.N.{name}" for name in ours.split()), layout))
    return tuple(rows)


QUERY, KEY, VALUE = "attention.query", "attention.key", "attention.value"


def _gpt2(layout: Layout) -> Names:
    """OpenAI's names, also used by nanoGPT; OpenAI's matrices are transposed."""
    block: BlockNames = {
        "ln_1": "attention_norm",
        "attn.c_attn": (f"{QUERY} {KEY} {VALUE}", layout),
        "attn.c_proj": ("attention.output", layout),
        "ln_2": "mlp_norm",
        "mlp.c_fc": ("mlp.up", layout),
        "mlp.c_proj": ("mlp.down", layout),
    }
    outer = (
        NameRow("transformer.wte", ("embed",)),
        NameRow("transformer.wpe", ("positions",)),
        NameRow("transformer.ln_f", ("norm",)),
        NameRow("lm_head", ("head",)),
    )
    return Names(
        (*outer, *block_rows("transformer.h.N.", block)),
        "transformer.",
        r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",
    )


HF_GPT2 = _gpt2(TRANSPOSED)
NANOGPT = _gpt2(SAME)

HF_LLAMA = Names(
    (
        NameRow("model.embed_tokens", ("embed",)),
        NameRow("model.norm", ("norm",)),
        NameRow("lm_head", ("head",)),
        *block_rows(
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


def _gguf(attention: BlockNames) -> Names:
    outer = (
        NameRow("token_embd", ("embed",)),
        NameRow("position_embd", ("positions",)),
        NameRow("output_norm", ("norm",)),
        NameRow("output", ("head",)),
    )
    block: BlockNames = {
        "attn_norm": "attention_norm",
        **attention,
        "attn_output": "attention.output",
        "ffn_norm": "mlp_norm",
        "ffn_gate": "mlp.gate",
        "ffn_up": "mlp.up",
        "ffn_down": "mlp.down",
    }
    return Names((*outer, *block_rows("blk.N.", block)))


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
