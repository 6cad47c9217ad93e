"""The names of the weights in each program: one table each, in the form of exchange/names.py."""

from torch import Tensor

from fledge.exchange.names import KEY, QUERY, VALUE, BlockNames, Layout, NameRow, Names, block_rows

QKV = f"{QUERY} {KEY} {VALUE}"


def _by_head(x: Tensor, D: int) -> Tensor:
    """[3 · heads · D, …]: all queries, all keys, all values → those of head 0, of head 1, …"""
    return x.unflatten(0, (3, -1, D)).transpose(0, 1).flatten(0, 2)


def _by_kind(x: Tensor, D: int) -> Tensor:
    """The inverse of `_by_head`."""
    return x.unflatten(0, (-1, 3, D)).transpose(0, 1).flatten(0, 2)


BY_HEAD = Layout(_by_head, _by_kind)


def _table(outer: dict[str, str], blocks: str, block: BlockNames, ignored: str = "$^") -> Names:
    rows = tuple(NameRow(theirs, (ours,)) for theirs, ours in outer.items())
    return Names((*rows, *block_rows(blocks, block)), ignored=ignored)


SMOL_GPT = _table(
    {
        "transformer.token_embd": "embed",
        "transformer.position_embd": "positions",
        "transformer.ln": "norm",
        "vocab_proj": "head",
    },
    "transformer.attention_blocks.N.",
    {
        "ln1": "attention_norm",
        "attn.qkv": QKV,
        "attn.proj": "attention.output",
        "ln2": "mlp_norm",
        "mlp.ffw1": "mlp.up",
        "mlp.ffw2": "mlp.down",
    },
)

SMALLGPT = _table(
    {"tok_emb": "embed", "pos_emb": "positions", "layer_norm": "norm", "final_layer": "head"},
    "transformers.N.",
    {
        "norm1": "attention_norm",
        "attention.qkv_layer": (QKV, BY_HEAD),
        "attention.linear_layer": "attention.output",
        "norm2": "mlp_norm",
        "ff.layers.0": "mlp.up",
        "ff.layers.3": "mlp.down",
    },
    r"transformers\.\d+\.attention\.mask",
)

SMOLLGPT = _table(
    {"embedding.word_embeddings": "embed", "embedding.pos_embeddings": "positions", "head": "head"},
    "blocks.N.",
    {
        "ln_in": "attention_norm",
        "attn.QKV": QKV,
        "attn.lin": "attention.output",
        "ln_out": "mlp_norm",
        "mlp.net.0": "mlp.up",
        "mlp.net.2": "mlp.down",
    },
)

TOYGPT = _table(
    {"embedding": "embed", "output_linear": "head"},
    "transformers.N.",
    {
        "input_norm": "attention_norm",
        "mha.attn_proj.0": QKV,
        "mha.out_linear": "attention.output",
        "mha_lnorm": "mlp_norm",
        "pw_ff.pwff.0": "mlp.up",
        "pw_ff.pwff.2": "mlp.down",
    },
    "pos_embedding",
)

SCRATCH_EARLY = _table(  # a matrix for each head, joined in contents.py
    {
        "token_embedding": "embed",
        "positional_embedding": "positions",
        "layer_norm": "norm",
        "linear_layer": "head",
    },
    "blocks.N.",
    {
        "layernorm_1": "attention_norm",
        "mha.W_q": QUERY,
        "mha.W_k": KEY,
        "mha.W_v": VALUE,
        "mha.linear_out": "attention.output",
        "layernorm_2": "mlp_norm",
        "ff.net.0": "mlp.up",
        "ff.net.2": "mlp.down",
    },
    r"blocks\.\d+\.mha\.all_heads\.\d+\.tril",
)

SCRATCH = _table(
    {
        "token_embedding": "embed",
        "positional_embedding": "positions",
        "layer_norm": "norm",
        "last_linear_layer": "head",
    },
    "blocks.N.",
    {
        "layernorm_1": "attention_norm",
        "causal_self_attention.c_attn": QKV,
        "causal_self_attention.linear_out": "attention.output",
        "layernorm_2": "mlp_norm",
        "ff.first_linear": "mlp.up",
        "ff.final_linear": "mlp.down",
    },
)
